"""
Whether a CUDA graph is being captured: nothing may be read then.
"""

from __future__ import annotations

import torch


def is_capturing() -> bool:
    """On the current stream; touches no device that nobody uses (not run: no GPU was at hand)."""
    return bool(torch.cuda.is_initialized()) and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]
