"""
The detector loss-non-finite: a training loss that is NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.facts import BACKWARD_SCALAR
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.losses import training_losses
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class LossNonFinite(Detector):
    """
    Detects:
        A logged training loss that is NaN or infinite: a warning the first time, critical when it is so twice in a row.
        Where that loss was left out of the training, for the step had no gradient at all or `backward()` was called of
        finite numbers only and made no gradient that is not finite, info the first time, and a warning when it is so
        twice in a row. At a step that was not looked at nothing is known of that: info the first time.

    Why it matters:
        Backward through it makes every gradient NaN, and one step later every parameter, unless something skips it.

    Known causes:
        An empty batch or mask (mean of nothing); log of zero; 16-bit overflow and underflow
        (https://github.com/afiaka87/glide-finetune/issues/6); CTC targets longer than their input;
        parameters that are not finite already (see non-finite).

    Fix:
        Find the batch of that step; guard the reduction; compute the loss in float32; lower the learning rate.

    Misses:
        Needs `agent.log(loss=...)` or an integration that does it. Losses of evaluation data are left alone.
    """

    name = "loss-non-finite"
    family = "loss"
    severity = Severity.CRITICAL
    summary = "The training loss is NaN or infinite."
    reads = ("scalars", "grad_norm", "grad_missing", "norm")
    alert = Alert(summary="The training loss is NaN or infinite")
    thresholds = (
        Threshold(
            name="in_a_row",
            default=2,
            unit="logged values",
            reason="one bad batch may be skipped by design; the next one is fine then",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        for name in training_losses(view):
            steps, values = view.scalar(name, 1)
            if not len(values) or steps[-1] != view.step or np.isfinite(values[-1]):
                continue
            steps, values = view.scalar(name, _WINDOW)
            good = np.flatnonzero(np.isfinite(values))
            start = int(good[-1]) + 1 if len(good) else 0
            times = len(values) - start
            repeated = times >= self.value("in_a_row")
            grave, mild = Severity.CRITICAL, Severity.WARNING
            if _was_left_out(view):
                grave, mild = Severity.WARNING, Severity.INFO
            elif not _was_looked_at(view):
                mild = Severity.INFO
            yield Claim(
                message="{name} is {value} at step {bad_step}"
                + (", for the {times}th time in a row." if repeated else "."),
                advice="Look at the batch of that step, at reductions over nothing, and at 16-bit overflow.",
                evidence={
                    "name": [name],
                    "value": [str(values[-1])],
                    "bad_step": [int(steps[start])],
                    "times": [times],
                },
                first_step=int(steps[start]),
                last_good_step=int(steps[start - 1]) if start else -1,
                severity=grave if repeated else mild,
                key=name,
            )


def _was_left_out(view: View) -> bool:
    """Whether nothing of this step's loss came to the weights: all gradients looked at are missing, or of finite numbers."""
    # backward() is not told of all: where gradients are given to it (a scale, a pipeline's stages) it is passed over.
    if (view.seen("grad_norm") & ~np.isfinite(view.now("grad_norm"))).any():
        return False
    steps, values = view.scalar(BACKWARD_SCALAR, 1)
    if len(steps) and steps[-1] == view.step:
        return bool(np.isfinite(values[-1]))
    missing = view.now("grad_missing")[view.held]
    known = np.isfinite(missing)
    return bool(known.any() and (missing[known] == 1).all())


def _was_looked_at(view: View) -> bool:
    return any(bool(view.seen(stat).any()) for stat in ("grad_missing", "norm"))
