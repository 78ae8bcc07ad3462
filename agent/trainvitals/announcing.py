"""
What an agent says of itself in the trainer's log: what was found when it was attached, what was covered at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainvitals.attempt import World
from trainvitals.roles import WATCHED, role_of
from trainvitals.settings import Settings
from trainvitals.slots import SlotTable
from trainvitals.speech import attach_line, say, summary_line
from trainvitals.steppers import steppers


class Announcer:
    """Speaks on rank 0 alone, unless it is to be quiet."""

    def __init__(self, settings: Settings, world: World, models: Sequence[nn.Module]) -> None:
        self._settings = settings
        self._num_ranks = world.world_size
        self._speaks = world.rank == 0 and not settings.quiet
        self._models = [type(model).__name__ for model in models]

    def attached(
        self, slots: SlotTable, optimizers: Sequence[Optimizer], limits: Iterable[str]
    ) -> None:
        """What was found, where facts go, and what can't be known."""
        if not self._speaks:
            return
        settings = self._settings
        steps = [type(each).__name__ for optimizer in optimizers for each in steppers(optimizer)]
        say(
            attach_line(
                run=settings.run,
                models=self._models,
                num_tensors=len(slots),
                num_watched=sum(role_of(slots.fqn(i)) in WATCHED for i in range(len(slots))),
                optimizers=steps,
                num_ranks=self._num_ranks,
                target=settings.monitor,
                to_folder=settings.to_folder,
                budget=settings.budget,
            )
        )
        for limit in limits:
            say(limit)

    def closed(self, report: Mapping[str, Any]) -> None:
        """What was covered, and what was never exercised."""
        if self._speaks:
            folder = self._settings.monitor if self._settings.to_folder else ""
            say(summary_line(self._settings.run, report, folder))
