"""
The detector steps-skipped: a gradient scaler that skips most steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import StepsAttempted
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class StepsSkipped(Detector):
    """
    Detects:
        Of the last twenty steps that a gradient scaler was asked for, it has skipped most; critical if none of many was
        ever made. While its scale falls, it may be on the way down from a start that was too high: that is given time.

    Why it matters:
        The loop runs, the loss is printed, and the model does not change.

    Known causes:
        A scaler that is made anew in each step or epoch, and begins with its initial scale each time
        (https://github.com/conservationtechlab/animl-py/pull/304); an infinity or NaN in every gradient
        (https://github.com/ymcui/Chinese-LLaMA-Alpaca/issues/534); a scale that is never updated.

    Fix:
        Make the scaler once, call `update()` after each step, and find the layer whose gradient overflows.

    Misses:
        Fused optimizers, which are handed the scale and skip inside their step; steps that a trainer skips by itself.
        Several ranks are judged by their last steps only where one is made.
    """

    name = "steps-skipped"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "A gradient scaler skips most of the steps."
    reads = ("StepsAttempted",)
    alert = Alert(hold="5m", summary="A gradient scaler skips most steps")
    thresholds = (
        Threshold(
            name="share",
            default=0.5,
            unit="ratio of the last 20 attempts",
            reason="a scaler in balance skips one step in 2,000, its growth interval",
        ),
        Threshold(
            name="settling",
            default=40,
            unit="attempts while the scale falls",
            reason="each skipped step halves it: a scale of 2^24 has none left to give by then",
        ),
        Threshold(
            name="never",
            default=50,
            unit="attempts without one step",
            reason="no scale that ever worked is so far away",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for at in view.events(StepsAttempted):
            seen = at.event
            if seen.recent < 20 or seen.recent_skipped <= self.value("share") * seen.recent:
                continue
            if seen.scale_falls and seen.skipped <= self.value("settling"):
                continue
            never = seen.skipped == seen.attempts >= self.value("never")
            yield Claim(
                message="{skipped} of the last {recent} steps that a gradient scaler was asked for were skipped, and "
                "{all_skipped} of all {attempts}.",
                advice="Make the scaler once, update it after each step, and find the gradient that overflows.",
                evidence={
                    "skipped": np.array([seen.recent_skipped]),
                    "recent": np.array([seen.recent]),
                    "all_skipped": np.array([seen.skipped]),
                    "attempts": np.array([seen.attempts]),
                },
                first_step=max(view.base_step, seen.step - (seen.recent - seen.recent_skipped)) + 1,
                severity=Severity.CRITICAL if never else Severity.WARNING,
            )
