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
from types import CodeType
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

CallableT = TypeVar("CallableT", bound=Callable[..., Any])


def untraced(function: Callable[..., Any]) -> Callable[..., None]:
    """The function, opaque to Dynamo: neither inlined into a caller's graph nor compiled itself; answers None."""
    disabled: list[Callable[..., Any]] = []
    eval_frame: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    # Newer torch says whether Dynamo listens now. Where it does not, `disable` would cost more than what it disables.
    listener: Callable[[], Any] = getattr(eval_frame, "get_eval_frame_callback", lambda: ...)
    is_compiling, modules = torch.compiler.is_compiling, sys.modules

    def opaque(*args: Any) -> None:
        # Dynamo that traces this knows `is_compiling`, and nothing of what is asked after it.
        if not is_compiling() and ("torch._dynamo" not in modules or listener() is None):
            function(*args)
            return
        if not disabled:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        disabled[0](*args)

    return keep_untraced(opaque)


def keep_untraced(function: CallableT) -> CallableT:
    """The function itself, which Dynamo neither inlines nor compiles from now on; what it calls may be compiled."""
    # Read by Dynamo before it inlines a call (torch/_dynamo/variables/functions.py); set by `disable` itself.
    marked: Any = function
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = "trainvitals reads state between steps"
    run_as_it_is(marked.__code__, True)
    return function


def run_as_it_is(code: CodeType, wanted: bool) -> None:
    """
    Whether Dynamo passes over frames of this code, and still compiles what they call; `wanted=False` takes it back.

    What torch._dynamo.eval_frame.skip_code does, without importing that.
    """
    frames: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    if hasattr(frames, "set_code_exec_strategy"):
        action = frames._FrameAction
        first = action.SKIP if wanted else action.DEFAULT
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(first, action.DEFAULT))
    elif wanted and hasattr(frames, "skip_code"):  # torch before 2.8
        frames.skip_code(code)


class Steps:
    """
    What torch puts around every optimizer's `step`, passed over by Dynamo while any agent holds it: it calls the hooks,
    and then the step that is compiled. Dynamo would begin with that frame, and give it up at the first hook: a graph
    break, though of no graph.
    """

    label = "torch.optim.Optimizer.profile_hook_step: not traced"

    def __init__(self) -> None:
        self._holders = 0

    def hold(self) -> None:
        """One holder more."""
        self._holders += 1
        run_as_it_is(Optimizer.profile_hook_step(_step).__code__, True)

    def release(self) -> None:
        """One less; the last one gives it back."""
        self._holders -= 1
        if not self._holders:
            run_as_it_is(Optimizer.profile_hook_step(_step).__code__, False)


STEPS = Steps()


def _step(optimizer: Optimizer) -> None:
    """Something to be wrapped."""
