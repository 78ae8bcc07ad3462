"""
The agents of a program that nobody edited: one for what it trains first, others for what it trains later.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.util
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

import trainvitals
from trainvitals.attached import ATTACHED
from trainvitals.errors import BadSetting
from trainvitals.probes.checkpoint import WATCH
from trainvitals.roots import live_optimizers, outermost, owned_by, parameters_of, roots_of

if TYPE_CHECKING:
    from torch import nn

    from trainvitals.agent import Agent

MAX_AGENTS = 8
"""A program that makes new models again and again (trials, inner loops) is not followed for ever."""


class Following:
    """
    Attaches where an optimizer steps for the first time, if no agent watches what it trains.

    At the first step all optimizers that are alive and all models that own their parameters are taken together. What
    an optimizer trains that comes later (a second phase, the next trial) gets an agent of its own: as another run, or as
    the same run's next attempt where the earlier models are gone and weights were loaded. After `MAX_AGENTS` of them
    later ones are only counted. Where the program calls `attach()` itself, nothing is attached here, and what is gives
    way to it. All on the trainer's thread, inside torch's call of optimizer hooks.
    """

    def __init__(self) -> None:
        self.hooks: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self.is_left_to_program = False
        self.why_not = ""
        self.unowned: dict[str, int] = {}
        self.num_late = 0
        self._looked_at: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._agents: list[Agent] = []
        self._models: list[weakref.ref[nn.Module]] = []
        self._pid = os.getpid()

    @property
    def has_attached(self) -> bool:
        """Whether any agent was made."""
        return bool(self._agents)

    def has_looked_at(self, optimizer: Optimizer) -> bool:
        """Whether it has stepped before."""
        return optimizer in self._looked_at

    def look_at(self, optimizer: Optimizer) -> None:
        """It steps for the first time. Cost where a model is new: two passes over the interpreter's objects (0.2 s)."""
        self._looked_at.add(optimizer)
        if self.is_left_to_program or (self._agents and os.getpid() != self._pid):
            return
        if not self._agents:
            self._attach_first(optimizer)
        elif not owned_by(self._alive_models(), optimizer):
            self._attach_later(optimizer)

    def close(self) -> None:
        """Close all agents."""
        for agent in self._agents:
            agent.close()

    def _attach_first(self, optimizer: Optimizer) -> None:
        if ATTACHED.agents:
            self.is_left_to_program = True
            return
        gc.collect()  # models of an earlier trial that are garbage already are not what is trained now
        self._attach([optimizer, *live_optimizers()], run=None)
        self._pid = os.getpid()
        if self._agents and multiprocessing.parent_process() is not None:
            # A forked child of multiprocessing leaves by os._exit: its exit handlers are multiprocessing's.
            multiprocessing.util.Finalize(None, self.close, exitpriority=10)

    def _attach_later(self, optimizer: Optimizer) -> None:
        number = len(self._agents) + 1
        if number > MAX_AGENTS:
            self.num_late += 1
            return
        gc.collect()
        run = self._agents[0].run
        is_over = not self._alive_models()
        if is_over:
            self.close()
        # Weights that were loaded into new objects go on with what was trained before.
        is_resumed = is_over and len(WATCH.journal) > 0
        fresh = [each for each in live_optimizers() if each not in self._looked_at]
        self._attach([optimizer, *fresh], run=run if is_resumed else f"{run}-{number}")

    def _attach(self, optimizers: list[Optimizer], run: str | None) -> None:
        """To the models that these train, the first of which is stepping; not to models that an agent watches already."""
        stepping = optimizers[0]
        optimizers = outermost(optimizers)
        known = self._alive_models()
        models = [
            model for model in roots_of(optimizers) if not any(model is other for other in known)
        ]
        if not models or not owned_by(models, stepping):
            self.unowned[type(stepping).__name__] = len(parameters_of([stepping]))
            return
        try:
            with _registering_in(self.hooks), ATTACHED.in_step(), ATTACHED.giving_way():
                agent = trainvitals.attach(models, optimizers, run=run)
        except BadSetting as error:
            self.why_not = str(error)
            return
        self._agents.append(agent)
        self._models += [weakref.ref(model) for model in models]
        self._looked_at.update(optimizers)

    def _alive_models(self) -> list[nn.Module]:
        return [model for reference in self._models if (model := reference()) is not None]


@contextmanager
def _registering_in(hooks: OrderedDict[int, Callable[..., Any]]) -> Iterator[None]:
    """
    Global optimizer pre-hooks registered meanwhile go into `hooks`, and their handles take them out of there.

    We are inside torch's loop over its own dict of them, which must not grow under it (RuntimeError: mutated during
    iteration). Who calls us calls those in `hooks`, at this step and at all later ones.
    """
    import torch.optim.optimizer as module

    others = module._global_optimizer_pre_hooks
    module._global_optimizer_pre_hooks = hooks
    try:
        yield
    finally:
        module._global_optimizer_pre_hooks = others
