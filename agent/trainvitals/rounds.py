"""
What happens around each round of optimizer steps: the budget chooses, the probes look, the step is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.budget import Budget
from trainvitals.coverage import Coverage
from trainvitals.guard import Guard
from trainvitals.probes.probe import Choice, Look, Probe, Rested
from trainvitals.progress import Progress
from trainvitals.record import Record
from trainvitals.slots import SlotTable
from trainvitals.stretch import Stretch

TELL_S = 1.0
"""Rests tell what they have counted this often, 0.1 ms each time: a process that is killed has told all but that."""


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
        self.stretch = Stretch(progress)
        self._coverage = Coverage()
        self._choice: Choice | None = None
        self._is_resting = self._waits_for_devices = False
        self._counting = _overriding(probes, "rest")
        self._counting_steps = _overriding(probes, "rest_step")
        self._telling = _overriding(probes, "after_rests")
        self._cutting = _overriding(probes, "after_cut")
        self._rested = Rested()
        self._steps: list[tuple[int, float, float, float]] = []
        self._ended_at = self._told_at = time.perf_counter()

    def before_step(self, optimizers: Sequence[Optimizer]) -> None:
        """Before each of our optimizers' steps; the first in a round chooses what to look at, or that it is a rest."""
        if self._choice is None and not self._is_resting:
            self._begin()
        step = self._progress.step + 1
        if self._is_resting:
            for probe in self._counting_steps:
                self._guard.call(probe.name, probe.rest_step, step, optimizers)
            return
        look = self._look(step, optimizers)
        self._ask(look, [(probe, probe.before_step) for probe in self._probes])

    def after_round(self, optimizers: Sequence[Optimizer]) -> None:
        """When all optimizers of the round have stepped: one more step is done."""
        self._progress.phase = "training"
        self._progress.step += 1
        was_rest = self._choice is None
        if was_rest:
            self._coverage.steps += 1
            self._rested.add(1, optimizers)
        else:
            look = self._look(self._progress.step, optimizers)
            self._ask(look, [(probe, probe.after_step) for probe in self._probes])
            for cores in self._guard.call("cores", look.in_parts) or ():
                self._ask(look.at(cores), [(probe, probe.after_cut) for probe in self._cutting])
            self._coverage.looked(look.choice, self._progress.step, len(self._slots))
        self._is_resting, self._choice = False, None
        self._end_step(was_rest)
        if was_rest:
            self._tell_in_time()
        if was_rest and len(optimizers) == 1:
            self._open_stretch(optimizers[0])

    def settle(self) -> None:
        """What the steps of the stretch so far leave to be done; and how it goes on, if it has come to its end."""
        ends, seconds = self.stretch.take()
        optimizer = self.stretch.optimizer
        if ends:
            self._rested.add(len(ends), [] if optimizer is None else [optimizer])
            self._coverage.steps += len(ends)
            self._guard.meter.add(seconds)
            self._end_rests(ends)
            self._tell_in_time()
        if ends and optimizer is not None and not self.stretch.left:
            self._open_stretch(optimizer)

    def complete(self) -> None:
        """Nothing more comes about the steps done so far."""
        self.settle()
        self._tell()
        self._progress.complete(self._progress.step)

    def send_tensor_table(self) -> None:
        """A row for each slot as it is now."""
        for index in range(len(self._slots)):
            self._record.tensor(self._slots.info(index))

    def coverage(self, checkpoints: dict[str, Any]) -> dict[str, Any]:
        """What was looked at and what was never seen, as plain data."""
        self.settle()
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
            self._waits_for_devices = any(
                slot.state is not None and slot.state.device.type != "cpu"
                for slot in self._slots.slots
            )
        choice = self._guard.call("budget", self._budget.choose, self._progress.step, self._slots)
        # A budget that has failed chooses nothing for good, and each step is still told.
        self._is_resting = choice is None and "budget" not in self._guard.off
        if self._is_resting:
            for probe in self._counting:
                self._guard.call(probe.name, probe.rest, self._progress.step + 1)
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

    def _ask(self, look: Look, moments: Sequence[tuple[Probe, Callable[[Look], None]]]) -> None:
        took: list[tuple[str, float]] = []
        with self._guard.meter.work(self._waits_for_devices) as work, torch.no_grad():
            for probe, moment in moments:
                started = time.perf_counter()
                self._guard.call(probe.name, moment, look)
                if probe.kind:
                    took.append((probe.kind, time.perf_counter() - started))
        for kind, seconds in took:
            self._budget.spent(kind, len(getattr(look.choice, kind)), work.part * seconds)

    def _open_stretch(self, optimizer: Optimizer) -> None:
        """As many rests as are certain to follow this one need nobody to choose them."""
        ahead = self._guard.call(
            "budget", self._budget.rests_ahead, self._progress.step, self._slots
        )
        if ahead:
            rests = [probe.rest for probe in self._counting if not self._is_off(probe)]
            by_step = [probe.rest_step for probe in self._counting_steps if not self._is_off(probe)]
            self.stretch.open(optimizer, ahead, rests, by_step)

    def _is_off(self, probe: Probe) -> bool:
        return probe.name in self._guard.off or probe.is_idle()

    def _end_rests(self, ends: Sequence[float]) -> None:
        """As `_end_step`, for the steps of a stretch."""
        seconds = [end - before for before, end in pairwise([self._ended_at, *ends])]
        ours, began = self._guard.meter.taken(), time.time() - time.perf_counter()
        first = self._progress.step - len(ends) + 1
        for step, (end, each) in enumerate(zip(ends, seconds, strict=True), first):
            self._steps.append((step, began + end, each, ours / len(ends)))
        self._ended_at = ends[-1]
        self._guard.call("budget", self._budget.rested, seconds, ours)

    def _end_step(self, was_rest: bool) -> None:
        now = time.perf_counter()
        seconds, self._ended_at = now - self._ended_at, now
        # What is left of this round, and what the trainer calls us for before the next one, counts there.
        ours = self._guard.meter.taken()
        self._steps.append((self._progress.step, time.time(), seconds, ours))
        if not was_rest:
            self._tell_steps()
        self._guard.call("budget", self._budget.step_took, seconds, ours)

    def _tell_in_time(self) -> None:
        """At the end of rests; the trainer may still log something of the last one."""
        if self._ended_at - self._told_at >= TELL_S:
            self._tell()
            self._progress.complete(self._progress.step - 1)

    def _tell(self) -> None:
        self._told_at = self._ended_at
        if self._rested.rounds:
            rested, self._rested = self._rested, Rested()
            for probe in self._telling:
                self._guard.call(probe.name, probe.after_rests, self._record, rested)
        self._tell_steps()

    def _tell_steps(self) -> None:
        """Those of rests wait for the next look, or for a second, for one row costs as much as many."""
        if self._steps:
            names = ("step", "time", "seconds", "agent_seconds")
            columns = zip(*self._steps, strict=True)
            self._steps = []
            self._record.add("steps", **dict(zip(names, columns, strict=True)))


def _overriding(probes: Sequence[Probe], name: str) -> list[Probe]:
    """Those that do something there."""
    return [each for each in probes if getattr(type(each), name) is not getattr(Probe, name)]
