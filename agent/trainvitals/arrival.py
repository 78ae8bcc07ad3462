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

MAX_AGENTS = 8
"""A program that makes new models again and again (trials, inner loops) is not followed for ever."""


class Arrival:
    """
    Waits for the first real step, attaches there, and ends the program after `steps` steps (0: never).

    At the first step all optimizers that are alive and all models that own their parameters are taken together. What
    an optimizer trains that comes later (a second phase, the next trial) gets an agent of its own: as another run, or as
    the same run's next attempt where the earlier models are gone and weights were loaded. After `MAX_AGENTS` of them
    later ones are only counted. Where the program calls `attach()` itself, nothing is attached here.
    """

    def __init__(self, steps: int = 0) -> None:
        self._steps = steps
        self._steps_done = 0
        self._round: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._looked_at: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._agents: list[Agent] = []
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
        for agent in self._agents:
            agent.close()
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
        if self._is_left_to_program or (self._agents and os.getpid() != self._pid):
            return
        if not self._agents:
            self._attach_first(optimizer)
        elif not owned_by(self._alive_models(), optimizer):
            self._attach_later(optimizer)

    def _attach_first(self, optimizer: Optimizer) -> None:
        from trainvitals.attached import ATTACHED
        from trainvitals.roots import live_optimizers

        if ATTACHED.agents:
            self._is_left_to_program = True
            return
        gc.collect()  # models of an earlier trial that are garbage already are not what is trained now
        self._attach([optimizer, *live_optimizers()], run=None)
        if self._agents and os.getpid() != self._pid:
            self._pid = os.getpid()
            # A forked child of multiprocessing leaves by os._exit: its exit handlers are multiprocessing's.
            multiprocessing.util.Finalize(None, self._agents[0].close, exitpriority=10)

    def _attach_later(self, optimizer: Optimizer) -> None:
        from trainvitals.probes.checkpoint import WATCH
        from trainvitals.roots import live_optimizers

        number = len(self._agents) + 1
        if number <= MAX_AGENTS:
            gc.collect()
            run = self._agents[0].run
            is_over = not self._alive_models()
            if is_over:
                for agent in self._agents:
                    agent.close()
            # Weights that were loaded into new objects go on with what was trained before.
            is_resumed = is_over and len(WATCH.journal) > 0
            fresh = [each for each in live_optimizers() if each not in self._looked_at]
            self._attach([optimizer, *fresh], run=run if is_resumed else f"{run}-{number}")
        self._num_late += len(self._agents) < number

    def _attach(self, optimizers: list[Optimizer], run: str | None) -> None:
        """To the models that these train, the first of which is stepping; not to models that an agent watches already."""
        import trainvitals
        from trainvitals.attached import ATTACHED
        from trainvitals.roots import outermost, owned_by, roots_of

        stepping = optimizers[0]
        optimizers = outermost(optimizers)
        known = self._alive_models()
        models = [
            model for model in roots_of(optimizers) if not any(model is other for other in known)
        ]
        if not models or not owned_by(models, stepping):
            self._why_not = f"no live model owns what {type(stepping).__name__} trains"
            return
        try:
            with _registering_in(self._hooks), ATTACHED.in_step():
                agent = trainvitals.attach(models, optimizers, run=run)
        except BadSetting as error:
            self._why_not = str(error)
            return
        self._agents.append(agent)
        self._models += [weakref.ref(model) for model in models]
        self._looked_at.update(optimizers)

    def _alive_models(self) -> list[nn.Module]:
        return [model for reference in self._models if (model := reference()) is not None]

    def _last_lines(self) -> list[str]:
        lines = []
        if self._steps and self._steps_done == self._steps:
            lines.append(f"ended after {self._steps} steps, as asked (--steps)")
        if not self._agents and not self._is_left_to_program:
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
