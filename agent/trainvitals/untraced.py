"""
Keeping our hooks out of other people's graphs.

An optimizer hook is called from inside `Optimizer.step`. Where a trainer compiles that (`torch.compile(opt.step)`),
Dynamo would trace the hook too: a hook that counts in Python recompiles at every step until the limit (measured: 8
recompilations for 13 steps, torch 2.13). Marked as here, the compiled step keeps its one graph.

`torch.compiler.disable` does the same, but importing Dynamo for it costs a trainer that never compiles more than a
second: so it is only used once somebody else has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def untraced(function: Callable[..., Any]) -> Callable[..., None]:
    """The function, opaque to Dynamo: neither inlined into a caller's graph nor compiled itself; answers None."""
    disabled: list[Callable[..., Any]] = []

    def opaque(*args: Any) -> None:
        if "torch._dynamo" not in sys.modules:
            function(*args)
            return
        if not disabled:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        disabled[0](*args)

    # Read by Dynamo before it inlines a call (torch/_dynamo/variables/functions.py); set by `disable` itself.
    opaque._torchdynamo_disable = True  # type: ignore[attr-defined]
    opaque._torchdynamo_disable_msg = "trainvitals reads state between steps"  # type: ignore[attr-defined]
    eval_frame: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    if hasattr(eval_frame, "skip_code"):
        eval_frame.skip_code(opaque.__code__)
    return opaque
