"""
The detector codebook-collapse: a vector quantizer that sends everything to the same code or two.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.facts import CODE_LOOKS
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256


class CodebookCollapse(Detector):
    """
    Detects:
        A codebook of which one code, or a fiftieth of them, took everything in the last 32 looks together, and that for
        many looks in a row; of cluster sizes that are averages, for so long that those of codes that were not chosen had
        time to decay.

    Why it matters:
        Nothing passes such a bottleneck: what comes behind it learns the mean of the data. Codes that are not chosen get
        no update, so that it does not mend by itself.

    Known causes:
        First codes far from the encoder's outputs; dead codes that are replaced, and whose running sums are not, so that
        the next update puts them back (https://github.com/espnet/espnet/issues/6284); no commitment loss, or one with the
        gradient stopped on the wrong side (https://github.com/EdoardoBotta/RQ-VAE-Recommender/issues/65).

    Fix:
        Begin with codes taken from the encoder's outputs (k-means), replace dead ones together with their averages and
        cluster sizes, and watch how many are in use.

    Misses:
        Codebooks with some codes in use, however few of thousands: a fiftieth is the line. Those that are not named as
        one; sizes that are kept as frequencies; quantizers without codes (FSQ, LFQ).
    """

    name = "codebook-collapse"
    family = "movement"
    severity = Severity.WARNING
    summary = "A vector quantizer uses next to none of its codes."
    reads = ("codes", "picked", "picked_recently", "memory_steps")
    alert = Alert(hold="10m", summary="A codebook has collapsed")
    thresholds = (
        Threshold(
            name="share",
            default=0.02,
            unit="ratio of the codes in use; one code is too few in any",
            reason="toy data use few codes, and a quantizer at work a tenth and more",
        ),
        Threshold(
            name="looks",
            default=48,
            unit="looks in a row",
            reason="codes that are dead are replaced after a while, and all may be at first",
        ),
        Threshold(
            name="memories",
            default=3.0,
            unit="times the steps in which an unused code's size falls to 1/e",
            reason="codes are dead, and replaced, when their average size has become small: by then it is a twentieth",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if not view.seen("picked_recently").any():
            return
        codes, now = view.now("codes"), view.now("picked_recently")
        with np.errstate(invalid="ignore"):
            few = now <= np.maximum(1.0, self.threshold("share", view) * codes)
        tensors = np.flatnonzero(few)
        if not len(tensors):
            return
        recent, seen = look_back(view, "picked_recently", _WINDOW, tensors)
        limit = np.maximum(1.0, self.threshold("share", view)[tensors] * codes[tensors])
        with np.errstate(invalid="ignore"):
            stretch = stretch_of(recent <= limit, seen, view.window_steps(_WINDOW))
        long = stretch.looks >= self.threshold("looks", view)[tensors]
        patience = self.threshold("memories", view)[tensors] * np.nan_to_num(
            view.latest("memory_steps")[tensors]
        )
        long &= view.step - stretch.first_step >= patience
        if long.any():
            chosen = tensors[long]
            # The looks before the first of these may have been as bad, and are counted in it.
            first = np.maximum(stretch.first_step[long], view.base_step + 1)
            yield Claim(
                tensors=chosen,
                message="{used} of {codes} codes of {fqn} took everything at {looks} looks in a row, since step {begin_step}.",
                advice="Take the first codes from the encoder's outputs, and replace dead ones with their averages.",
                evidence={
                    "used": now[chosen].astype(np.int64),
                    "codes": codes[chosen].astype(np.int64),
                    "looks": stretch.looks[long],
                    "begin_step": first,
                    "looks_together": np.full(len(chosen), CODE_LOOKS),
                },
                first_step=first,
                last_good_step=stretch.last_good_step[long],
            )
