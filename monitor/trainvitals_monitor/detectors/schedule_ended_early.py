"""
The detector schedule-ended-early: a learning rate that has come down to its floor long before the declared end.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.facts import BACKWARD_CALLS
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View
from trainvitals_monitor.history.held import Rates

_WINDOW = 64


class ScheduleEndedEarly(Detector):
    """
    Detects:
        A learning rate that came down in many small falls, has been constant above zero since, and came there after the
        n-th part of the steps that `Contract(total_steps=)` declares, where n is the number of processes, of the backward
        passes in a step, or their product. Info where n is none of these, and at most half of the steps were done.

    Why it matters:
        The rest of the training, most of it, goes on at the lowest rate: it learns a fraction of what it was to learn, and
        the loss curve only looks as if the model had converged.

    Known causes:
        The scheduler is stepped once per process in each step, as Accelerate does with those that are given to prepare()
        (https://github.com/Lightricks/LTX-Video-Trainer/issues/67, https://github.com/huggingface/diffusers/issues/3954,
        https://github.com/huggingface/transformers/pull/24088), or once per microbatch
        (https://github.com/starVLA/starVLA/pull/210, https://github.com/nvidia-cosmos/cosmos-rl/pull/207).

    Fix:
        Step the scheduler once per optimizer step, or give it as many steps as it is called.

    Misses:
        All where the number of steps is not declared: many train on at the floor on purpose. Decays in a few steps, those
        that end after more than half of the training, and those that go on in waves (schedule-overrun) or end at zero
        (learning-rate-zero). A tail at the floor that is meant, and begins just there, is reported.
    """

    name = "schedule-ended-early"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "The learning rate has come down to its floor long before the declared end."
    reads = ("lr", "OptimizersSeen", "scalars")
    alert = Alert(hold="5m", summary="A learning rate is at its floor long before the end")
    thresholds = (
        Threshold(
            name="falls",
            default=16,
            unit="falls of the rate since it last rose",
            reason="decays by milestones or at plateaus have fewer",
        ),
        Threshold(
            name="depth",
            default=0.5,
            unit="ratio of the floor to the peak",
            reason="schedules go lower; what ends above it may be a smoothed restart or a second phase",
        ),
        Threshold(
            name="steps",
            default=16,
            unit="steps at the floor",
            reason="a decay that goes by epochs, or rests for a while, goes on",
        ),
        Threshold(
            name="share",
            default=0.25,
            unit="steps at the floor, as a ratio of those before",
            reason="the same, for long trainings",
        ),
        Threshold(
            name="rounding",
            default=0.01,
            unit="ratio of the steps up to the floor",
            reason="numbers of steps are rounded per epoch and process",
        ),
    )
    resolve_after = 16

    def look(self, view: View) -> Iterable[Claim]:
        rates, seen, total = view.group_rates, view.optimizers, view.contract.total_steps
        if rates is None or seen is None or not total:
            return
        for group in np.flatnonzero(self._at_floor(view, rates)).tolist():
            since = int(rates.changed[group])
            done = since - 1 + (view.step_offset or 0)
            parts = _parts(view)
            slack = 1 + self.value("rounding") * done
            fitting = [part for part in parts if abs(done - total / part) <= slack]
            held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
            if len(held) and done > 0 and (fitting or 2 * done <= total + slack):
                yield _claim(held, rates, group, done, total, fitting)

    def _at_floor(self, view: View, rates: Rates) -> BoolArray:
        """The groups whose rate has come down to where it is, and has stayed there."""
        steps = view.step - rates.changed + 1
        before = rates.changed - 1 - view.base_step
        with np.errstate(invalid="ignore"):
            low = (rates.lr > 0) & (rates.lr <= self.value("depth") * rates.peak)
            long = (steps >= self.value("steps")) & (steps >= self.value("share") * before)
        falls: BoolArray = np.array(rates.falls) >= self.value("falls")
        return low & long & falls


def _parts(view: View) -> list[int]:
    """By what a scheduler may be too fast: processes, backward passes in a step, and their product."""
    _, calls = view.scalar(BACKWARD_CALLS, _WINDOW)
    passes = int(np.median(calls)) if len(calls) else 1
    ranks = max(1, view.world_size)
    return sorted({part for part in (ranks, passes, ranks * passes) if part > 1})


def _claim(
    tensors: IntArray, rates: Rates, group: int, done: int, total: int, fitting: list[int]
) -> Claim:
    count, since = len(tensors), int(rates.changed[group])
    why = ": its scheduler seems to be stepped {part} times in each." if fitting else "."
    return Claim(
        tensors=tensors,
        message="the learning rate of {fqn} and the {tensors} tensors of its group came down from {peak:.3g} to {lr:.3g} in "
        "{done} of {total} steps" + why,
        advice="Step the scheduler once per optimizer step, or give it as many steps as it is called.",
        evidence={
            "lr": np.full(count, rates.lr[group]),
            "peak": np.full(count, rates.peak[group]),
            "done": np.full(count, done),
            "total": np.full(count, total),
            "part": np.full(count, fitting[0] if fitting else 0),
            "tensors": np.full(count, count),
        },
        first_step=since,
        last_good_step=since - 1,
        severity=None if fitting else Severity.INFO,
        key=f"group {group}",
    )
