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
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from trainvitals.attempt import read_world
from trainvitals.awaited import AwaitedModules
from trainvitals.errors import BadSetting
from trainvitals.settings import resolve
from trainvitals.speech import say

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from trainvitals.agent import Agent
    from trainvitals.guard import Guard


class Arrival:
    """
    Waits for the first real step, attaches there, and ends the program after `steps` steps (0: never).

    At the first step all optimizers that are alive and all models that own their parameters are taken together; what
    comes later is counted and said at the end. Where the program calls `attach()` itself, nothing is attached here.
    """

    def __init__(self, steps: int = 0) -> None:
        self._steps = steps
        self._steps_done = 0
        self._round: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._looked_at: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._agent: Agent | None = None
        self._models: list[weakref.ref[nn.Module]] = []
        self._is_left_to_program = False
        self._pid = os.getpid()
        self._why_not = "torch was never imported"
        self._num_late = 0
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
        for line in self._last_lines():
            _say(line)

    def _listen(self, _module: str) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        from trainvitals.guard import Guard
        from trainvitals.probes.checkpoint import WATCH
        from trainvitals.record import Record
        from trainvitals.untraced import untraced

        guard = Guard(Record(0), lambda: self._steps_done)
        self._why_not = "no optimizer step was seen"
        WATCH.hold()
        self._handle = register_optimizer_step_pre_hook(untraced(partial(self._before_step, guard)))

    def _before_step(self, guard: Guard, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        from trainvitals.clock import is_phantom

        # Each by itself: whatever keeps us from attaching, `steps` still ends the program.
        if guard.call("phantom steps", is_phantom, optimizer):
            return
        guard.call("count of steps", self._count, optimizer)
        if optimizer not in self._looked_at:
            guard.call("attach", self._look_at, optimizer)
            if "attach" in guard.off:
                self._why_not = f"attaching failed ({guard.off['attach']})"
        for hook in tuple(self._hooks.values()):
            hook(optimizer, args, kwargs)

    def _count(self, optimizer: Optimizer) -> None:
        """A step begins when an optimizer steps again; the one after the last does not begin."""
        if optimizer in self._round:
            self._steps_done += 1
            self._round.clear()
            if self._steps_done == self._steps:
                raise SystemExit(0)
        self._round.add(optimizer)

    def _look_at(self, optimizer: Optimizer) -> None:
        """An optimizer steps for the first time."""
        from trainvitals.roots import owned_by

        self._looked_at.add(optimizer)
        if self._agent is None and not self._is_left_to_program:
            self._attach(optimizer)
        elif self._agent is not None and os.getpid() == self._pid:
            models = [model for reference in self._models if (model := reference()) is not None]
            self._num_late += not owned_by(models, optimizer)

    def _attach(self, optimizer: Optimizer) -> None:
        import trainvitals
        from trainvitals.attached import ATTACHED
        from trainvitals.roots import live_optimizers, outermost, owned_by, roots_of

        if ATTACHED.agents:
            self._is_left_to_program = True
            return
        gc.collect()  # models of an earlier trial that are garbage already are not what is trained now
        optimizers = outermost([optimizer, *live_optimizers()])
        models = roots_of(optimizers)
        if not models or not owned_by(models, optimizer):
            self._why_not = f"no live model owns what {type(optimizer).__name__} trains"
            return
        try:
            with _registering_in(self._hooks), ATTACHED.in_step():
                self._agent = trainvitals.attach(models, optimizers)
        except BadSetting as error:
            self._why_not = str(error)
            return
        self._models = [weakref.ref(model) for model in models]
        self._looked_at.update(optimizers)
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            # A forked child of multiprocessing leaves by os._exit: its exit handlers are multiprocessing's.
            multiprocessing.util.Finalize(None, self._agent.close, exitpriority=10)

    def _last_lines(self) -> list[str]:
        lines = []
        if self._steps and self._steps_done == self._steps:
            lines.append(f"ended after {self._steps} steps, as asked (--steps)")
        if self._agent is None and not self._is_left_to_program:
            lines.append(
                f"{self._why_not}: nothing was attached; call trainvitals.attach(model, optimizer) in the program"
            )
        if self._num_late:
            lines.append(
                f"not watched: what {self._num_late} later optimizer(s) train, which came after the first step"
            )
        return lines


@contextmanager
def _registering_in(hooks: OrderedDict[int, Callable[..., Any]]) -> Iterator[None]:
    """
    Global optimizer pre-hooks registered meanwhile go into `hooks`, and their handles take them out of there.

    We are inside torch's loop over its own dict of them, which must not grow under it (RuntimeError: mutated during
    iteration). Our pre-hook calls those in `hooks`, at this step and at all later ones.
    """
    import torch.optim.optimizer as module

    others = module._global_optimizer_pre_hooks
    module._global_optimizer_pre_hooks = hooks
    try:
        yield
    finally:
        module._global_optimizer_pre_hooks = others


def _say(line: str) -> None:
    if read_world().rank == 0 and not resolve({}).quiet:
        say(line)
