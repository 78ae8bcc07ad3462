"""
The detector learning-rate-jump: a learning rate that leaps above all that it had been.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View
from trainvitals_monitor.history.held import Rates
from trainvitals_monitor.history.schedule import Rise


class LearningRateJump(Detector):
    """
    Detects:
        A parameter group's learning rate that had risen or fallen before, and from one step to the next is several times
        as high as it ever was. Never above info: a rate may be raised on purpose.

    Why it matters:
        A rate several times the one that a model was trained with undoes in some steps what it had learnt, or blows it
        up; what is seen of it later is a loss that never comes down again.

    Known causes:
        A scheduler that multiplies the present rate is stepped again and again with the same number
        (https://github.com/pytorch/pytorch/issues/21623); a warm-up counted in steps that ends with the first epoch
        (https://github.com/salesforce/LAVIS/issues/72); a rate that is assigned once more scaled by the number of
        processes.

    Fix:
        Compute rates from a base rate that is kept, step the scheduler once per optimizer step, and let the warm-up end
        before anything else sets the rate.

    Misses:
        The first change of a rate: constant warm-ups end in one. What comes back to a rate that it had before, and
        whatever comes up after it has come up before: restarts and cycles. Jumps from one attempt to the next
        (resume-discontinuity).
    """

    name = "learning-rate-jump"
    family = "optimizer"
    severity = Severity.INFO
    summary = "A learning rate leaps above all that it had been."
    reads = ("lr", "OptimizersSeen")
    alert = Alert(summary="A learning rate leaps above all that it had been")
    thresholds = (
        Threshold(
            name="factor",
            default=4.0,
            unit="ratio to the largest rate before, beyond that of a straight line from zero",
            reason="a warm-up's second step at most doubles the rate, and a tuned rate seldom bears four times as much",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        rates, seen = view.group_rates, view.optimizers
        if rates is None or seen is None:
            return
        for group, rise in enumerate(rates.rises):
            if rise is None or rise.step != view.step or not self._leaps(view, rates, group, rise):
                continue
            held = np.array(sorted({i for i in seen.group_tensors[group] if i >= 0}), np.int64)
            if len(held):
                yield Claim(
                    tensors=held,
                    message="the learning rate of {fqn} and the {tensors} tensors of its group rose from {before:.3g} to "
                    "{lr:.3g} at once, and had never been above {peak:.3g}.",
                    advice="See what sets the rate beside the schedule, and whether the warm-up was over.",
                    evidence={
                        "before": np.full(len(held), rise.before),
                        "lr": np.full(len(held), rates.lr[group]),
                        "peak": np.full(len(held), rise.peak),
                        "tensors": np.full(len(held), len(held)),
                    },
                    first_step=rise.step,
                    last_good_step=rise.told,
                    key=f"group {group}",
                )

    def _leaps(self, view: View, rates: Rates, group: int, rise: Rise) -> bool:
        if not rise.changes or rise.revivals or not rise.peak > 0:
            return False
        # Where steps between two looks were not looked at, a warm-up goes on in them.
        warming = (rise.step - view.base_step) / max(rise.told - view.base_step, 1)
        return bool(rates.lr[group] >= self.value("factor") * warming * rise.peak)
