"""
The detector dropout-lost: dropout rates that fall to zero at once while the model is trained.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import ModesSeen
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class DropoutLost(Detector):
    """
    Detects:
        Modules whose dropout rate was the same from the first step on, and is exactly 0 since some step, in train mode.
        Info where all of several modules are at 0 at once: some train so (https://arxiv.org/abs/2303.01500).

    Why it matters:
        The rest of the training does not regularise, though every module is in train mode and the configuration says that
        it does: the loss looks better, the evaluation gets worse.

    Known causes:
        A module that switches its dropout off for an evaluation by overwriting `p`, and never back
        (https://github.com/NVIDIA/Megatron-LM/issues/411); helpers such as `disable_dropout` that are called on the model
        that is trained.

    Fix:
        Leave `p` alone and use `model.eval()`, or a local value that is 0 where `self.training` is False.

    Misses:
        Rates that fall step by step, as a schedule lets them, even to 0; functional dropout, whose rate no module holds.
        A helper that is called on the whole model by mistake looks like an early dropout that is over. The rates of some
        modules, or of the only one, that are set to 0 at once on purpose are reported.
    """

    name = "dropout-lost"
    family = "modes"
    severity = Severity.WARNING
    summary = "Dropout rates fell to zero at once while the model is trained."
    reads = ("ModesSeen",)
    alert = Alert(summary="Dropout has been switched off while training")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="steps at the first rate",
            reason="the first steps may be a warm-up without the final settings",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for at in view.events(ModesSeen):
            if not at.event.settled:
                continue
            told = [past.event for past in view.past_events(ModesSeen) if past.rank == at.rank]
            first, now = told[0], at.event
            rates, before = np.array(now.dropout_rates), np.array(now.dropout_rates_before)
            if (
                not len(before)
                or len(rates) != len(before)
                or len(first.dropout_rates) != len(before)
            ):
                continue
            lost = int((rates == 0).sum() - (before == 0).sum())
            steady = before.tolist() == first.dropout_rates
            if lost > 0 and steady and now.since - first.step >= self.value("steps"):
                all_at_once = lost > 1 and not rates.any()
                yield Claim(
                    message="the dropout rate of {lost} of {dropouts} modules is 0 since step {since_step}, after {rate:.3g} "
                    "from the first step on, in train mode.",
                    advice="Do not overwrite the rate for an evaluation: call eval() and train().",
                    evidence={
                        "lost": [lost],
                        "dropouts": [len(rates)],
                        "rate": [float(before.max())],
                        "since_step": [now.since],
                    },
                    first_step=now.since,
                    last_good_step=now.since - 1,
                    severity=Severity.INFO if all_at_once else None,
                )
