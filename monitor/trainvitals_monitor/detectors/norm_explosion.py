"""
The detector norm-explosion: a parameter whose norm grows exponentially.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

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

_STRIDE = 8
_SPAN = 3 * _STRIDE + 1


class NormExplosion(Detector):
    """
    Detects:
        A trainable parameter whose norm at least doubled in each of the last three stretches of eight steps, the last
        no more slowly than the first (a line through log norm that does not bend down): a warning. A norm a thousand
        times its own median over the last 25 steps: critical. Either way its elements must be above 1 (root mean
        square).

    Why it matters:
        Growth that does not slow down ends in infinity, often hours before the loss shows it.

    Known causes:
        A learning rate far too high; gradients that are never zeroed (https://github.com/wenet-e2e/wekws/issues/73); a missing normalisation or a wrong sign in a
        regulariser; adapters on a base that was not loaded (https://github.com/pytorch/torchtitan/issues/421).

    Fix:
        Go back to a clean checkpoint; lower the learning rate or lengthen its warm-up; clip gradients.

    Misses:
        What starts at or near zero grows fast by right, but ever more slowly in the logarithm, and is not reported.
        Needs 25 steps, and looks at every eighth of them or more often. A load of other weights in these steps is not
        judged.
    """

    name = "norm-explosion"
    family = "numbers"
    severity = Severity.WARNING
    summary = "The norm of a parameter grows exponentially."
    reads = ("norm",)
    alert = Alert(hold="1m", summary="The norm of a parameter grows exponentially")
    thresholds = (
        Threshold(
            name="growth",
            default=2.0,
            unit="ratio over 8 steps, three times in a row",
            reason="steps of constant size can at most double once their sum is as large as the start",
        ),
        Threshold(
            name="jump",
            default=1000.0,
            unit="ratio to the median of 25 steps",
            reason="loading pretrained weights over an initialisation changes norms some tenfold, not a thousandfold",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        values, _ = view.window("norm", _SPAN)
        if len(values) < 5:
            return
        now = values[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            grown = (now > self.value("growth") ** 3 * values[0]) | (
                now > self.value("jump") * values[-5]
            )
            grown &= (now > 0) & np.isfinite(now) & view.tensors.trainable & view.tensors.is_param
        if not grown.any() or _loaded(view):
            return
        suspects = np.flatnonzero(grown)
        norms = values[:, suspects]
        jumped = self._jumped(view, norms, suspects)
        yield from _claim(view, suspects[jumped], norms[:, jumped], Severity.CRITICAL)
        growing = self._keeps_growing(view, norms, suspects) & ~jumped
        yield from _claim(view, suspects[growing], norms[:, growing], Severity.WARNING)

    def _jumped(self, view: View, norms: FloatArray, suspects: IntArray) -> BoolArray:
        # At least five looks: a median over fewer is not the tensor's past.
        looks = np.isfinite(norms).sum(axis=0)
        median = np.array([np.median(column[np.isfinite(column)]) for column in norms.T])
        size = norms[-1] / np.sqrt(np.maximum(view.tensors.numel[suspects], 1))
        jump = self.threshold("jump", view)[suspects]
        jumped: BoolArray = (looks >= 5) & (median > 0) & (norms[-1] > jump * median) & (size > 1)
        return jumped

    def _keeps_growing(self, view: View, norms: FloatArray, suspects: IntArray) -> BoolArray:
        if len(norms) < _SPAN:
            return np.zeros(len(suspects), np.bool_)
        size = norms[-1] / np.sqrt(np.maximum(view.tensors.numel[suspects], 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = np.diff(np.log(norms[::_STRIDE]), axis=0)
            enough = np.log(self.threshold("growth", view)[suspects])
            growing: BoolArray = (
                (rates >= enough).all(axis=0) & (rates[-1] >= 0.9 * rates[0]) & (size > 1)
            )
        return growing


def _loaded(view: View) -> bool:
    return any(
        load.step >= view.step - _SPAN and not load.foreign for load in view.checkpoints("load")
    )


def _claim(view: View, tensors: IntArray, norms: FloatArray, severity: Severity) -> Iterable[Claim]:
    if not len(tensors):
        return
    steps = view.window_steps(_SPAN)
    yield Claim(
        tensors=tensors,
        message="the norm of {fqn} grew from {before:.3g} at step {from_step} to {after:.3g}"
        + (" in a jump." if severity is Severity.CRITICAL else ", and grows faster and faster."),
        advice="Stop before it is infinite: lower the learning rate, clip gradients, and go back to a clean checkpoint.",
        evidence={
            "before": norms[0],
            "after": norms[-1],
            "from_step": np.full(len(tensors), steps[0]),
        },
        last_good_step=int(steps[0]),
        severity=severity,
    )
