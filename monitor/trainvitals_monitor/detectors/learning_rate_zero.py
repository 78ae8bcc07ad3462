"""
The detector learning-rate-zero: training that goes on at a learning rate of zero, or below it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, IntArray, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View
from trainvitals_monitor.history.held import Rates


class LearningRateZero(Detector):
    """
    Detects:
        Every parameter group's learning rate is exactly zero: it came down to it, and training goes on for more steps
        than the end of a schedule explains (at once where `Contract(total_steps=)` says that much of the training was
        still to come); or it has been zero since the attempt began. Or a learning rate that was positive is below zero.
        Or one group's is zero from the start on while others of its optimizer train, and zero is what the optimizer was
        made with: nobody gave that group a rate.

    Why it matters:
        At zero every further step is wasted: the model no longer learns. Below zero each step goes up the gradient.

    Known causes:
        The scheduler is stepped per microbatch or once per process, so that a schedule for N steps ends after a part of
        them (https://github.com/huggingface/accelerate/issues/963, https://github.com/sgl-project/SpecForge/issues/364);
        it was given the number of epochs, not of steps; a warm-up from zero whose scheduler is never stepped; a linear
        decay without a lower bound; an optimizer made with a rate of 0, for the schedule is to set it, and an assignment
        that only reaches the last group, as it stands behind the loop over them
        (https://github.com/rasbt/LLMs-from-scratch/issues/692); a schedule that sets the groups of a wrapper, while the
        optimizer within steps with others (https://github.com/microsoft/dp-transformers/issues/43).

    Fix:
        Step the scheduler once per optimizer step, give it the number of those, and clamp what it returns at zero.

    Misses:
        Schedules that end too early above zero (see schedule-ended-early and learning-rate-vanished), or begin again.
        Single groups at zero in an optimizer that was made with another rate: they may be frozen so. A run that is
        finished and goes on for other reasons at a rate of zero is reported.
    """

    name = "learning-rate-zero"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "Training goes on at a learning rate of zero, or below it."
    reads = ("lr", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Training goes on at a learning rate of zero")
    thresholds = (
        Threshold(
            name="steps",
            default=12,
            unit="steps at zero",
            reason="numbers of steps are rounded per epoch: trainings end a few steps after their schedule",
        ),
        Threshold(
            name="share",
            default=0.25,
            unit="steps at zero, as a ratio of those before",
            reason="the rounding of many epochs adds up, and some go on for a while on purpose; a schedule that is stepped "
            "twice too often leaves as many steps as it took",
        ),
        Threshold(
            name="first_steps",
            default=30,
            unit="steps at zero since the attempt began",
            reason="a warm-up from zero spends one step there, or what is called an epoch in small trainings",
        ),
        Threshold(
            name="remaining",
            default=0.05,
            unit="ratio of the declared steps still to come",
            reason="schedules may be planned to end a little earlier",
        ),
    )
    resolve_after = 16

    def look(self, view: View) -> Iterable[Claim]:
        rates = view.group_rates
        if rates is None or not len(rates.lr):
            return
        below = (rates.lr < 0) & (rates.former_peak > 0)
        if below.any():
            yield _below(view, rates, np.flatnonzero(below))
        if not _all_at_zero(view, rates):
            yield from self._never_set(view, rates)
            return
        since = int(np.nanmax(rates.changed[rates.lr == 0]))
        steps = view.step - since + 1
        if not (rates.former_peak > 0).any():
            if steps >= self.value("first_steps") and since <= view.base_step + 1:
                yield _at_zero(since, steps, "since the attempt began")
            return
        before = since - 1 - view.base_step
        too_many = steps >= max(self.value("steps"), self.value("share") * before)
        if too_many or (steps >= 2 and self._much_is_to_come(view)):
            yield _at_zero(since, steps, "after coming down to it")

    def _never_set(self, view: View, rates: Rates) -> Iterable[Claim]:
        """Groups at the rate their optimizer was made with, zero, beside others that were given one."""
        seen = view.optimizers
        if seen is None or not seen.default_lr:
            return
        steps = view.step - rates.changed + 1
        for number, default in enumerate(seen.default_lr):
            mine = np.array(seen.group_optimizer[: len(rates.lr)]) == number
            if default != 0 or not (mine & (rates.lr > 0)).any():
                continue
            unset = mine & (rates.lr == 0) & ~(rates.peak > 0)
            for group in np.flatnonzero(unset & (steps >= self.value("first_steps"))).tolist():
                held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
                held = held[view.tensors.trainable[held]]
                if len(held):
                    yield _unset(held, int(rates.changed[group]), int(steps[group]))

    def _much_is_to_come(self, view: View) -> bool:
        total = view.contract.total_steps
        if not total:
            return False
        return total - view.step - (view.step_offset or 0) > self.value("remaining") * total


def _all_at_zero(view: View, rates: Rates) -> bool:
    """Every group of which a rate is known, and all that the others hold: a wrapper's groups are those within once more."""
    at_zero = rates.lr == 0
    if not at_zero.any() or not (at_zero | np.isnan(rates.lr)).all():
        return False
    return bool(at_zero.all() or (view.lr[view.held] == 0).all())


def _below(view: View, rates: Rates, groups: IntArray) -> Claim:
    seen = view.optimizers
    held = [] if seen is None else [i for group in groups for i in seen.group_tensors[group]]
    tensors = np.array(sorted({index for index in held if index >= 0}), np.int64)
    count = max(1, len(tensors))
    return Claim(
        tensors=tensors,
        message="the learning rate is {lr:.3g}, below zero, after it was up to {peak:.3g}: steps go up the gradient.",
        advice="Clamp the schedule at zero, and see whether it was given the right number of steps.",
        evidence={
            "lr": np.full(count, rates.lr[groups[0]]),
            "peak": np.full(count, rates.former_peak[groups[0]]),
        },
        first_step=int(rates.changed[groups[0]]),
        severity=Severity.CRITICAL,
        key="below zero",
    )


def _unset(tensors: IntArray, since: int, steps: int) -> Claim:
    return Claim(
        tensors=tensors,
        message="the learning rate of {fqn} and the {tensors} tensors of its group is the 0 that their optimizer was made "
        "with, for {steps} steps now, while other groups have one: nobody set it.",
        advice="Assign the rate to every group, within the loop over them; freeze what is not to be trained.",
        evidence={
            "tensors": np.full(len(tensors), len(tensors)),
            "steps": np.full(len(tensors), steps),
        },
        first_step=since,
        key="never set",
    )


def _at_zero(since: int, steps: int, how: str) -> Claim:
    return Claim(
        message="every learning rate is zero for {steps} steps now, {how}, and training goes on.",
        advice="Step the scheduler once per optimizer step, and give it the number of those.",
        evidence={"steps": np.array([steps]), "how": [how]},
        first_step=since,
        last_good_step=since - 1,
    )
