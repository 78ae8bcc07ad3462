"""
Attaching to a program that nobody edited: at its first optimizer step, to the models that its optimizers train.

Touches, until `leave`: `sys.meta_path` until torch is imported; torch's global optimizer step pre-hooks; the
checkpoint watch (so that loads before the first step are seen).
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.util
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainvitals.awaited import AwaitedModules

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trainvitals.agent import Agent


class Arrival:
    """
    Waits for the first real step, attaches there, and ends the program after `steps` steps (0: never).

    At the first step all optimizers that are alive and all models that own their parameters are taken together; what
    comes later is counted and said at the end. Where the program calls `attach()` itself, nothing is attached.
    """

    def __init__(self, steps: int = 0) -> None:
        self._steps = steps
        self._steps_done = 0
        self._round: set[int] = set()
        self._agent: Agent | None = None
        self._arrived_in = 0
        self._unowned = ""
        self._late: set[int] = set()
        self._known: set[int] = set()
        self._awaited: AwaitedModules | None = None
        self._handle: Any = None
        self._hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()

    def await_torch(self) -> None:
        """Begin as soon as the program has imported torch: its settings of the environment come first."""
        if "torch" in sys.modules:
            self._listen("torch")
        else:
            self._awaited = AwaitedModules(["torch"], self._listen)

    def leave(self) -> None:
        """Close the agent, take everything down, and say what was never seen."""
        if self._awaited is not None:
            self._awaited.stop()
        if self._agent is not None:
            self._agent.close()
        if self._handle is not None:
            from trainvitals.probes.checkpoint import WATCH

            self._handle.remove()
            WATCH.release()
        self._say_what_was_missed()

    def _listen(self, _module: str) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        from trainvitals.probes.checkpoint import WATCH
        from trainvitals.untraced import untraced

        WATCH.hold()
        self._handle = register_optimizer_step_pre_hook(untraced(self._before_step))

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        from trainvitals.clock import is_phantom

        if is_phantom(optimizer):
            return
        self._count(optimizer)
        if self._agent is None and not self._known:
            self._attach(optimizer)
        for hook in tuple(self._hooks.values()):
            hook(optimizer, args, kwargs)
        if self._known and id(optimizer) not in self._known:
            self._late.add(id(optimizer))

    def _count(self, optimizer: Optimizer) -> None:
        """A new step begins when an optimizer steps again; the one after the last is not begun."""
        if id(optimizer) in self._round:
            self._steps_done += 1
            self._round.clear()
            if self._steps_done == self._steps:
                raise SystemExit(0)
        self._round.add(id(optimizer))
