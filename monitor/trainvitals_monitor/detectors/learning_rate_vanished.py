"""
The detector learning-rate-vanished: training that goes on after its learning rate has decayed to next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, IntArray, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View
from trainvitals_monitor.history.held import Rates


class LearningRateVanished(Detector):
    """
    Detects:
        A parameter group's learning rate that came down step after step, far faster than trainings decay, has been below
        a millionth of its peak for more steps than the end of a schedule explains, and is not zero.

    Why it matters:
        A millionth of the rate that trained the model changes nothing any more, most weights not even by a bit: the group
        is as good as frozen, and every further step is wasted.

    Known causes:
        A decay that is meant for epochs is applied in every step: an ExponentialLR stepped per batch; factors for layers
        that are multiplied into the rates in step(), not once when the optimizer is made
        (https://github.com/jaehyunnn/ViTPose_pytorch/issues/20).

    Fix:
        Step such a scheduler once per epoch, or give it a factor for steps; compute rates from a base rate that is kept
        instead of multiplying the present one; give the schedule a lower bound.

    Misses:
        Slower decays, and those that end above a millionth. A schedule that is meant to decay so fast to nothing.
    """

    name = "learning-rate-vanished"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "Training goes on though its learning rate has decayed to next to nothing."
    reads = ("lr", "OptimizersSeen")
    alert = Alert(hold="5m", summary="A learning rate has decayed to next to nothing")
    thresholds = (
        Threshold(
            name="halvings",
            default=20.0,
            unit="halvings below the peak",
            reason="a millionth; cosines and powers are below it for less than a hundredth of their steps",
        ),
        Threshold(
            name="half_life",
            default=70.0,
            unit="steps",
            reason="decays meant for epochs multiply by 0.99 or less, those meant for steps by 0.999 or more",
        ),
        Threshold(
            name="falls",
            default=0.25,
            unit="ratio of the steps in which the rate fell",
            reason="a decay by epochs, of more than a few steps, falls rarely",
        ),
        Threshold(
            name="steps",
            default=12,
            unit="steps so far down",
            reason="the last steps of schedules that end at zero are as low",
        ),
        Threshold(
            name="share",
            default=0.1,
            unit="steps so far down, as a ratio of those before",
            reason="and a few more where the number of steps was rounded",
        ),
    )
    resolve_after = 16

    def look(self, view: View) -> Iterable[Claim]:
        rates, seen = view.group_rates, view.optimizers
        if rates is None or seen is None:
            return
        for group in np.flatnonzero(rates.lr > 0).tolist():
            since = self._since(view, rates, group)
            if since is None:
                continue
            held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
            if len(held):
                yield _claim(held, rates, group, since, view.step - since + 1)

    def _since(self, view: View, rates: Rates, group: int) -> int | None:
        """The step since which the group's rate is too low; None if it is not, or came down slowly."""
        halved, count = rates.halved[group], int(self.value("halvings"))
        if len(halved) < count:
            return None
        since, first = halved[count - 1], halved[0]
        before = since - 1 - view.base_step
        if view.step - since + 1 < max(self.value("steps"), self.value("share") * before):
            return None
        slow = since - first > self.value("half_life") * (count - 1)
        rare = rates.falls[group] < self.value("falls") * (view.step - first)
        return None if slow or rare else since


def _claim(tensors: IntArray, rates: Rates, group: int, since: int, steps: int) -> Claim:
    count = len(tensors)
    return Claim(
        tensors=tensors,
        message="the learning rate of {fqn} and the {tensors} tensors of its group has decayed from {peak:.3g} to {lr:.3g}, "
        "step by step, and training goes on.",
        advice="Step a decay that is meant for epochs once per epoch, and give the schedule a lower bound.",
        evidence={
            "lr": np.full(count, rates.lr[group]),
            "peak": np.full(count, rates.peak[group]),
            "steps": np.full(count, steps),
            "tensors": np.full(count, count),
        },
        first_step=since,
        last_good_step=since - 1,
        key=f"group {group}",
    )
