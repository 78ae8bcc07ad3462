"""
A number as trainers keep it: a Python or numpy number, or a tensor of one element.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch

from trainvitals.layout import is_dtensor


def number_of(value: Any) -> float | None:
    """The number; None for what is none, and for a tensor on another device: reading that would wait for it."""
    if type(value) is float:  # nearly always; asking an abstract class takes a microsecond
        return value
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.numel() != 1 or is_dtensor(value):
            return None
        return float(value)
    return float(value) if isinstance(value, Real) else None
