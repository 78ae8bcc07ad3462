"""
The detector loss-spike: a loss that leaves its own past upwards and does not come back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, FloatArray, Threshold
from trainvitals_monitor.detectors.losses import main_losses
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 128
_NORMAL = 1.4826
"""Standard deviations in a median absolute deviation of normal noise."""


class LossSpike(Detector):
    """
    Detects:
        The last logged values of the loss are all far above its past, measured by the median and the median absolute
        deviation of the values before them. Never above info: the loss alone does not tell a fault from hard data.

    Why it matters:
        A spike that comes back by itself is a bad batch. One that stays has thrown the model off, and hours of training
        pass before it is where it was, if it ever is.

    Known causes:
        Bad data at a learning rate that is just bearable
        (https://github.com/bigscience-workshop/Megatron-DeepSpeed/issues/57,
        https://github.com/stas00/ml-engineering/issues/32); a learning rate that jumps; weights or optimizer state
        overwritten in the middle of training.

    Fix:
        Go back to the checkpoint before it, and skip those batches or lower the rate; where other findings begin at the
        same step, see to them first.

    Misses:
        Losses that nobody logs, under names that do not say so. A loss that climbs slowly takes its past along. Where the
        past holds stretches as high (several tasks in turn), nothing is said.
    """

    name = "loss-spike"
    family = "loss"
    severity = Severity.INFO
    summary = "The loss has left its own past upwards and does not come back."
    reads = ("scalars",)
    alert = Alert(hold="5m", summary="The loss has spiked and does not come back")
    thresholds = (
        Threshold(
            name="deviations",
            default=8.0,
            unit="robust standard deviations above the median of up to 123 values",
            reason="noise of any common shape does not stay beyond that for several values in a row",
        ),
        Threshold(
            name="floor",
            default=0.05,
            unit="ratio of the median: the least that a standard deviation counts",
            reason="on a plateau the noise of full batches is next to nothing, and some percent more of loss no spike",
        ),
        Threshold(
            name="stay",
            default=5,
            unit="logged values in a row",
            reason="a bad batch is over with the next one; what momentum does to the weights takes some more to show",
        ),
        Threshold(
            name="past",
            default=32,
            unit="logged values before them",
            reason="a median of fewer is still that of the first descent",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        stay = int(self.value("stay"))
        for name in main_losses(view):
            steps, values = view.scalar(name, _WINDOW)
            if len(values) < stay + self.value("past") or steps[-1] != view.step:
                continue
            if not np.isfinite(values).all():
                continue
            past, recent = values[:-stay], values[-stay:]
            lowest = recent.min()
            # A past with as many values beyond the bound knows this level; medians are asked for last, they cost most.
            if (past >= lowest).sum() >= stay:
                continue
            median, bound = self._bound(past)
            if not lowest > bound or (past > bound).sum() >= stay:
                continue
            yield Claim(
                message="{name} has been at {lowest:.4g} or above for {stay} values, after a median of {median:.4g} "
                "and a bound of {bound:.4g} by its own noise.",
                advice="Look at what else happened at that step, and at the data; go back to the checkpoint before it.",
                evidence={
                    "name": [name],
                    "lowest": np.array([lowest]),
                    "stay": [stay],
                    "median": [median],
                    "bound": [bound],
                },
                first_step=int(steps[-stay]),
                last_good_step=int(steps[-stay - 1]),
                key=name,
            )

    def _bound(self, past: FloatArray) -> tuple[float, float]:
        """The median of these values, and what noise around it does not exceed."""
        median = float(np.median(past))
        deviation = _NORMAL * float(np.median(np.abs(past - median)))
        deviation = max(deviation, self.value("floor") * abs(median))
        return median, median + self.value("deviations") * deviation
