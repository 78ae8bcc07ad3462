"""
The detector gradient-clipped-away: gradients that are clipped at every step, to next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    Claim,
    Detector,
    FloatArray,
    Threshold,
)
from trainvitals_monitor.detectors.gradient_norms import gradient_norms, norm_now
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 32


class GradientClippedAway(Detector):
    """
    Detects:
        The norm of all gradients together is the same at every step to four digits, and tiny, while those of single
        parameters differ from step to step: they are clipped each time, to a bound that nobody would choose.

    Why it matters:
        Training crawls: each step is as small as the loss scale is large, whatever the gradients say.

    Known causes:
        `clip_grad_norm_` before `scaler.unscale_(optimizer)`, which divides what was clipped by the loss scale
        (https://github.com/Lightning-AI/pytorch-lightning/issues/9599,
        https://github.com/milesial/Pytorch-UNet/issues/468).

    Fix:
        Call `scaler.unscale_(optimizer)` before clipping.

    Misses:
        Models whose gradients are not all looked at in one step (large ones under a budget); several optimizers that
        are clipped one by one; a model of one parameter; clipping that does not bite at every step.
    """

    name = "gradient-clipped-away"
    family = "gradients"
    severity = Severity.WARNING
    summary = "Gradients are clipped at every step, to next to nothing."
    reads = ("grad_norm", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Gradients are clipped to next to nothing")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks at all gradients",
            reason="so many equal norms of different gradients are no accident",
        ),
        Threshold(
            name="norm",
            default=1e-3,
            unit="L2 norm of all gradients",
            reason="bounds in use are 0.1 to 10; loss scales are 1024 and more",
        ),
        Threshold(
            name="constant",
            default=1e-4,
            unit="relative deviation of the norm of all",
            reason="float32 rounding of a sum of squares stays below",
        ),
        Threshold(
            name="varied",
            default=1e-2,
            unit="relative deviation of a parameter's norm, median",
            reason="on a plateau with a full batch every norm is constant; with fresh batches they differ by more",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if not norm_now(view) < self.value("norm"):
            return
        looked = gradient_norms(view, int(self.value("looks")), _WINDOW)
        if looked is None or len(looked.tensors) < 2:
            return
        tensors, steps, norms, total = looked
        if not 0 < total.max() < self.value("norm") or _spread(total) > self.value("constant"):
            return
        varied = float(np.median(_spread(norms[:, norms.min(axis=0) > 0])))
        if varied < self.value("varied"):
            return
        count = len(tensors)
        yield Claim(
            tensors=tensors,
            message="all gradients together, {fqn}'s among them, have a norm of {norm:.4g} at each of {looks} looks, as "
            "after clipping to that, though single ones differ by {varied:.0%}.",
            advice="Call scaler.unscale_(optimizer) before clipping.",
            evidence={
                "norm": np.full(count, total[-1]),
                "looks": np.full(count, len(steps)),
                "varied": np.full(count, varied),
            },
            first_step=np.full(count, int(steps[0])),
        )


def _spread(values: FloatArray) -> FloatArray:
    """Largest relative deviation from the mean over the looks (axis 0)."""
    mean = np.maximum(values.mean(axis=0), np.finfo(np.float64).tiny)
    spread: FloatArray = np.abs(values - mean).max(axis=0, initial=0.0) / mean
    return spread
