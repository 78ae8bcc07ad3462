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
    FloatArray,
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
        A learning rate that came down step after step, has been constant above zero since, for long, and came there after
        the n-th part of the steps that `Contract(total_steps=)` declares, where n is the number of processes. Info where n
        is the number of backward passes in a step, or the product of both; or none of these, and at most half of the
        steps were done, even if those declared are microbatches.

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
        All where the number of steps is not declared: many train on at the floor on purpose. Decays in a few steps, by
        epochs or at plateaus, those that end after more than half of the training, those in whose middle the training was
        started again, and those that go on in waves (schedule-overrun) or end at zero (learning-rate-zero). Several
        backward passes in a step may be microbatches or losses, so what fits them alone is info. A tail at the floor that
        is meant, and begins just there, is reported.
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
            default=1.0,
            unit="steps at the floor, as a ratio of those before; or of half of those that were left",
            reason="the same, for long trainings; a second phase may begin after a rest",
        ),
        Threshold(
            name="at_once",
            default=0.3,
            unit="ratio of the falls that come one step after another",
            reason="what is stepped too often falls at each step, of which some are not looked at; what goes by epochs or "
            "plateaus rests in between",
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
        done = rates.changed - 1 + (view.step_offset or 0)
        for group in np.flatnonzero(self._at_floor(view, rates, done, total)).tolist():
            held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
            slack = 1 + self.value("rounding") * done[group]
            ranks, passes = max(1, view.world_size), _passes(view)
            parts = [part for part in (ranks, passes, ranks * passes) if part > 1]
            fitting = [part for part in parts if abs(done[group] - total / part) <= slack]
            if len(held) and (fitting or 2 * done[group] <= total / passes + slack):
                severity = None if ranks in fitting else Severity.INFO
                yield _claim(held, rates, group, int(done[group]), total, fitting, severity)

    def _at_floor(self, view: View, rates: Rates, done: FloatArray, total: int) -> BoolArray:
        """The groups whose rate has come down step by step to where it is, and has stayed there."""
        steps = view.step - rates.changed + 1
        falls = np.array(rates.falls)
        with np.errstate(invalid="ignore"):
            low = (rates.lr > 0) & (rates.lr <= self.value("depth") * rates.peak) & (done > 0)
            least = self.value("share") * np.minimum(done, np.maximum(total - done, 0) / 2)
            long = (steps >= self.value("steps")) & (steps >= least)
        steadily = np.array(rates.falls_at_once) >= self.value("at_once") * falls
        found: BoolArray = low & long & steadily & (falls >= self.value("falls"))
        return found


def _passes(view: View) -> int:
    """Backward passes in a step, as most of the last ones have it."""
    _, calls = view.scalar(BACKWARD_CALLS, _WINDOW)
    calls = calls[np.isfinite(calls)]
    return max(1, int(np.median(calls))) if len(calls) else 1


def _claim(
    tensors: IntArray,
    rates: Rates,
    group: int,
    done: int,
    total: int,
    fitting: list[int],
    severity: Severity | None,
) -> Claim:
    count, since = len(tensors), int(rates.changed[group])
    why = "."
    if fitting and severity is None:
        why = ": its scheduler seems to be stepped {part} times in each."
    elif fitting:
        why = ", as it would if its scheduler were stepped {part} times in each."
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
        severity=severity,
        key=f"group {group}",
    )
