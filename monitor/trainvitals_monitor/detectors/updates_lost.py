"""
The detector updates-lost: low-precision parameters whose updates are rounded away.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.contract import MANTISSA_BITS
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_CLEARLY = 0.75
"""Of what the size of a move has to be above, in the terms of `carried_over`, so much is expected at most."""


class UpdatesLost(Detector):
    """
    Detects:
        Parameters of 16 bits that an optimizer steps without float32 masters and without keeping what rounding takes, where most elements that have a gradient
        do not change: over the whole model and in the tensor itself; or a tensor of which nothing has changed at all
        for 64 looks. Only once the learning rate has stopped rising and is not yet near its end.

    Why it matters:
        An update below half an ulp of the weight vanishes. A norm's weight of 1.0 in bfloat16 does not move unless the
        step is above 0.002, so with a usual learning rate it stays at exactly 1.0 for the whole training.

    Known causes:
        Training in pure bfloat16 with a fine-tuning learning rate
        (https://github.com/meta-pytorch/torchtune/issues/2254, https://github.com/pytorch/ao/issues/1124); all norms
        of a family of released models were still 1.0 (https://github.com/vllm-project/speculators/issues/765).

    Fix:
        Keep float32 parameters under autocast, give the optimizer float32 masters, or use stochastic rounding or Kahan
        summation.

    Misses:
        Says nothing where the elements that do move, move by whole ulps of a typical weight: then the optimizer carries
        the rest over (stochastic rounding, Kahan summation); nor where that can't be told, because wherever elements
        move, more than a quarter of them do; nor where its state has a tensor that is called so. A learning rate that
        rises for the whole run is not judged.
        Fewer elements lost do harm too: plain SGD in bfloat16 that lost less than half of its updates ended a small
        training at a loss of 0.99 instead of 0.82.
    """

    name = "updates-lost"
    family = "movement"
    severity = Severity.WARNING
    summary = "Updates of low-precision parameters are rounded away."
    reads = ("with_gradient", "lost", "changed", "looked", "update_norm", "norm", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Updates of low-precision parameters are rounded away")
    thresholds = (
        Threshold(
            name="lost_ratio",
            default=0.5,
            unit="ratio of elements with a gradient",
            reason="healthy bfloat16 training loses under 0.35 even with norms at 1.0; the fault 0.7 to 1",
        ),
        Threshold(
            name="looks",
            default=8,
            unit="looks",
            reason="Adam's first steps are its largest; the share lost is steady after eight",
        ),
        Threshold(
            name="lr_share",
            default=0.5,
            unit="ratio of the attempt's largest learning rate",
            reason="at the end of a decay to zero updates vanish by design",
        ),
        Threshold(
            name="carried_over",
            default=3.0,
            unit="ratio",
            reason="size of a move in ulps over the share that moves: 1.4 to 2.5 when rounded to nearest, 3.2 to 20 "
            "under stochastic rounding and Kahan summation (measured at learning rates of 2e-4 and 1e-5)",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        # Every fourth step is enough: shares over many looks hardly change in between.
        low = None if view.step % 4 else self._low(view)
        if low is None:
            return
        tensors, everywhere = self._suspects(view, low)
        if not len(tensors):
            return
        lost = _window_sum(view, "lost", tensors)
        tried = _window_sum(view, "with_gradient", tensors)
        looks, ratio = _looks(view, tensors), lost / np.maximum(tried, 1)
        mostly = (looks >= self.threshold("looks", view)[tensors]) & (tried > 0)
        mostly &= ratio >= self.threshold("lost_ratio", view)[tensors]
        carried = self._carried_over(view, tensors[mostly], ratio[mostly])
        if carried:
            return
        if carried is None or not (everywhere and self._lost_everywhere(view, ratio, tensors)):
            mostly &= (looks >= _WINDOW) & (_window_sum(view, "changed", tensors) == 0)
        if mostly.any():
            yield _claim(view, tensors[mostly], ratio[mostly], looks[mostly])

    def _low(self, view: View) -> BoolArray | None:
        """Low-precision tensors that are stepped at a settled learning rate; None if there are none."""
        optimizers, table = view.optimizers, view.tensors
        if optimizers is None or not (table.float_bits == 16).any():
            return None
        if optimizers.masters or optimizers.carries:
            return None
        with np.errstate(invalid="ignore"):
            low: BoolArray = (table.float_bits == 16) & table.trainable & view.held & (view.lr > 0)
            low &= view.lr >= self.value("lr_share") * view.peak_lr
            low &= view.lr_settled >= self.value("looks")
        return low if low.any() else None

    def _suspects(self, view: View, low: BoolArray) -> tuple[IntArray, bool]:
        """All of them if the model lost many updates just now; otherwise those that did not move at all."""
        lost, tried = view.now("lost"), view.now("with_gradient")
        weight = view.tensors.numel * low
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(tried > 0, lost / tried, np.nan)
        seen = low & ~np.isnan(share)
        pooled = float((share[seen] * weight[seen]).sum()) / max(float(weight[seen].sum()), 1.0)
        if pooled >= self.value("lost_ratio") / 2:
            return np.flatnonzero(low), True
        still = np.flatnonzero(seen & (share == 1))
        return still[_window_sum(view, "changed", still) == 0], False

    def _lost_everywhere(self, view: View, ratio: FloatArray, suspects: IntArray) -> bool:
        """Whether the model as a whole loses most of its updates: each tensor counts by its size."""
        weight = view.tensors.numel[suspects]
        return float((ratio * weight).sum()) >= self.value("lost_ratio") * float(weight.sum())

    def _carried_over(self, view: View, suspects: IntArray, ratio: FloatArray) -> bool | None:
        """
        Whether what moves, moves by whole ulps: the typical tensor's; None if that can't be told. What is carried over
        moves by one ulp over the share that moves: with a large share, both kinds of rounding look the same. Where
        hardly anything moves nothing is carried over, for that would move some elements at every look.
        """
        changed = view.latest("changed")[suspects]
        looked = np.maximum(view.latest("looked")[suspects], 1)
        norm = view.latest("norm")[suspects]
        told_apart = (1 - ratio) * self.value("carried_over") <= _CLEARLY
        moved = (changed >= 4) & (norm > 0)
        telling = moved & told_apart
        if not telling.any():
            return None if moved.any() else False
        share = changed[telling] / looked[telling]
        relative = view.latest("update_norm")[suspects][telling] / (norm[telling] * np.sqrt(share))
        ulps = relative * _half_ulps_in_one(view, suspects[telling])
        return bool(np.median(ulps / share) > self.value("carried_over"))


def _half_ulps_in_one(view: View, tensors: IntArray) -> FloatArray:
    bits = [MANTISSA_BITS.get(view.tensors.dtype[index], 7) for index in tensors.tolist()]
    return np.exp2(np.array(bits, np.float64) + 1)


def _window_sum(view: View, stat: str, suspects: IntArray) -> FloatArray:
    values, seen = look_back(view, stat, _WINDOW, suspects)
    total: FloatArray = np.where(seen, values, 0.0).sum(axis=0)
    return total


def _looks(view: View, suspects: IntArray) -> IntArray:
    values, seen = look_back(view, "with_gradient", _WINDOW, suspects)
    looks: IntArray = (seen & (values > 0)).sum(axis=0)
    return looks


def _claim(view: View, tensors: IntArray, ratio: FloatArray, looks: IntArray) -> Claim:
    lost, seen = look_back(view, "lost", _WINDOW, tensors)
    tried, _ = look_back(view, "with_gradient", _WINDOW, tensors)
    with np.errstate(invalid="ignore"):
        bad = (tried > 0) & (lost >= 0.5 * tried)
    since = stretch_of(bad, seen, view.window_steps(_WINDOW))
    return Claim(
        tensors=tensors,
        message="{fqn} is {dtype} and lost {percent:.0f} % of its updates over {looks} looks: they are smaller than "
        "half an ulp of the weights.",
        advice="Keep the parameters in float32 under autocast, or use float32 masters or stochastic rounding.",
        evidence={
            "dtype": [view.tensors.dtype[index] for index in tensors.tolist()],
            "percent": 100 * ratio,
            "looks": looks,
            "lr": view.lr[tensors],
        },
        first_step=np.where(since.first_step >= 0, since.first_step, view.step),
        last_good_step=since.last_good_step,
    )
