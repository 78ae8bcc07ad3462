"""
What happens around each round of optimizer steps: the budget chooses, the probes look, the step is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.budget import Budget
from trainvitals.coverage import Coverage
from trainvitals.guard import Guard
from trainvitals.probes.probe import Choice, Look, Probe
from trainvitals.progress import Progress
from trainvitals.record import Record
from trainvitals.slots import SlotTable


class Rounds:
    """
    The clock's two callbacks, on the trainer's thread: `before_step` and `after_round`.

    Each probe is called through the guard, under no_grad, and timed for the budget.
    """

    def __init__(
        self,
        slots: SlotTable,
        record: Record,
        guard: Guard,
        budget: Budget,
        probes: Sequence[Probe],
        progress: Progress,
    ) -> None:
        self._slots = slots
        self._record = record
        self._guard = guard
        self._budget = budget
        self._probes = probes
        self._progress = progress
        self._coverage = Coverage()
        self._choice: Choice | None = None
        self._is_resting = False
        self._counting = [each for each in probes if type(each).rest is not Probe.rest]
        self._steps: list[tuple[int, float, float, float]] = []
        self._ended_at = time.perf_counter()

    def before_step(self, optimizers: Sequence[Optimizer]) -> None:
        """Before each of our optimizers' steps; the first in a round chooses what to look at, or that it is a rest."""
        if self._choice is None and not self._is_resting:
            self._begin()
        step = self._progress.step + 1
        if self._is_resting:
            for probe in self._counting:
                self._guard.call(probe.name, probe.rest, step, optimizers)
            return
        look = self._look(step, optimizers)
        for probe in self._probes:
            self._timed(probe, probe.before_step, look)

    def after_round(self, optimizers: Sequence[Optimizer]) -> None:
        """When all optimizers of the round have stepped: one more step is done."""
        self._progress.phase = "training"
        self._progress.step += 1
        if self._is_resting:
            self._coverage.steps += 1
        else:
            look = self._look(self._progress.step, optimizers)
            for probe in self._probes:
                self._timed(probe, probe.after_step, look)
            self._coverage.looked(look.choice, self._progress.step, len(self._slots))
        was_rest, self._is_resting, self._choice = self._is_resting, False, None
        self._end_step(was_rest)

    def complete(self) -> None:
        """Nothing more comes about the steps done so far."""
        if self._steps:  # of rests
            for probe in self._counting:
                self._guard.call(probe.name, probe.after_rests, self._record)
        self._tell_steps()
        self._progress.complete()

    def send_tensor_table(self) -> None:
        """A row for each slot as it is now."""
        for index in range(len(self._slots)):
            self._record.tensor(self._slots.info(index))

    def coverage(self, checkpoints: dict[str, Any]) -> dict[str, Any]:
        """What was looked at and what was never seen, as plain data."""
        indices = range(len(self._slots))
        return self._coverage.report(
            small=np.array([self._slots.plan(i).is_whole for i in indices], np.bool_),
            readable=np.array([self._slots.readable(i) for i in indices], np.bool_),
            step=self._progress.step,
            checkpoints=checkpoints,
        )

    @property
    def _is_first(self) -> bool:
        return self._coverage.steps == 0

    def _begin(self) -> None:
        if self._is_first:
            self._guard.meter.taken()  # attaching is not part of a step
            self._guard.call("tensor table", self._rebaseline)
        choice = self._guard.call("budget", self._budget.choose, self._progress.step, self._slots)
        # A budget that has failed chooses nothing for good, and each step is still told.
        self._is_resting = choice is None and "budget" not in self._guard.off
        if self._is_resting:
            return
        self.complete()
        self._choice = choice or Choice()

    def _rebaseline(self) -> None:
        """What happened between attach and the first step (to_empty, a cast, fully_shard) is legal: start from it."""
        self._slots.rebaseline(self._progress.step)
        self.send_tensor_table()

    def _look(self, step: int, optimizers: Sequence[Optimizer]) -> Look:
        return Look(
            step=step,
            slots=self._slots,
            record=self._record,
            choice=self._choice or Choice(),
            optimizers=optimizers,
            first=self._is_first,
        )

    def _timed(self, probe: Probe, moment: Callable[[Look], None], look: Look) -> None:
        started = time.perf_counter()
        with torch.no_grad():
            self._guard.call(probe.name, moment, look)
        if probe.kind:
            looked = len(getattr(look.choice, probe.kind))
            self._budget.spent(probe.kind, looked, time.perf_counter() - started)

    def _end_step(self, was_rest: bool) -> None:
        now = time.perf_counter()
        seconds, self._ended_at = now - self._ended_at, now
        # What is left of this round, and what the trainer calls us for before the next one, counts there.
        ours = self._guard.meter.taken()
        self._steps.append((self._progress.step, time.time(), seconds, ours))
        if not was_rest:
            self._tell_steps()
        self._guard.call("budget", self._budget.step_took, seconds, ours)

    def _tell_steps(self) -> None:
        """Those of rests wait for the next look, for one row costs as much as many."""
        if self._steps:
            names = ("step", "time", "seconds", "agent_seconds")
            columns = zip(*self._steps, strict=True)
            self._steps = []
            self._record.add("steps", **dict(zip(names, columns, strict=True)))
