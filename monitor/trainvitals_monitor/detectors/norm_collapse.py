"""
The detector norm-collapse: gains of normalisations that weight decay pulls to zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from trainvitals.frame import OptimizersSeen
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

# Optimizers that shrink a weight by learning rate x weight decay, whatever its gradient is; in others the decay is
# part of the gradient, and what it does to a weight can't be told from the rates.
_DECOUPLED = re.compile(r"adamw|lion|adan|muon|sophia", re.IGNORECASE)


class NormCollapse(Detector):
    """
    Detects:
        Gains that began at exactly 1 (one-dimensional parameters, all elements 1) and have sunk, nearly all of them and
        about as far as learning rate x weight decay explains, in a trainer that exempts something from weight decay:
        another parameter group has a decay of 0 and holds one-dimensional parameters or nothing at all, so the
        exemption was meant for such as these and missed them.

    Why it matters:
        Gains of normalisations are no weights to be kept small: they go to zero as exp(-learning rate x decay x steps),
        activations and gradients of every layer shrink with them, and the loss shows it late or never.

    Known causes:
        Lists of names that match none of the model's norms (`"LayerNorm.weight"` where they are called
        `input_layernorm` or `attention_norm`): https://github.com/huggingface/transformers/issues/42754,
        https://github.com/huggingface/transformers/issues/35927, https://github.com/karpathy/minGPT/issues/23.

    Fix:
        Exempt by shape (`p.ndim < 2`) or by the module's class, not by name.

    Misses:
        Optimizers whose decay is a part of the gradient (SGD, Adam); gains that did not begin at 1. A trainer that
        decays everything alike may mean it: that is info, and only where the gains have sunk far. One that exempts
        biases alone on purpose is reported once its gains have sunk.
    """

    name = "norm-collapse"
    family = "numbers"
    severity = Severity.WARNING
    summary = "Weight decay pulls the gains of normalisations to zero."
    reads = ("norm", "OptimizersSeen", "lr", "weight_decay", "digests")
    alert = Alert(hold="5m", summary="Weight decay pulls the gains of normalisations to zero")
    thresholds = (
        Threshold(
            name="sunk",
            default=0.2,
            unit="ratio of the gain at the start",
            reason="the usual decays of 0.01 to 0.1 take below a tenth in a short run, and training moves gains by as "
            "much on its own",
        ),
        Threshold(
            name="sunk_far",
            default=0.5,
            unit="ratio of the gain at the start",
            reason="where nothing is exempt, the decay may be meant; worth knowing once half of the gain is gone",
        ),
        Threshold(
            name="explained",
            default=2.0,
            unit="ratio of logarithms",
            reason="gradients add to the decay or work against it, by up to this much while decay is what sinks them",
        ),
        Threshold(
            name="most",
            default=0.75,
            unit="ratio of the decayed gains",
            reason="decay takes them all alike; gains that learn to shrink do so here and there",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        gains = view.cached("norm-collapse", lambda: _gains(view))
        if gains is None or not len(gains.tensors):
            return
        tensors = gains.tensors
        decayed = view.decayed[tensors]
        with np.errstate(invalid="ignore"):
            held = decayed > -np.log1p(-self.value("sunk"))
        if held.sum() < self.value("most") * len(tensors):
            return
        now = view.latest("norm")[tensors] / np.sqrt(view.tensors.numel[tensors])
        limit = self.value("sunk" if gains.exempt else "sunk_far")
        with np.errstate(invalid="ignore", divide="ignore"):
            explained = -np.log(now) / decayed
        slack = self.value("explained")
        with np.errstate(invalid="ignore"):
            sunk = held & (now < 1 - limit) & (explained > 1 / slack) & (explained < slack)
        if sunk.any() and sunk.sum() >= self.value("most") * len(tensors):
            yield _claim(view, gains.exempt, tensors[sunk], now[sunk], decayed[sunk])


def _claim(
    view: View, exempt: bool, tensors: IntArray, now: FloatArray, decayed: FloatArray
) -> Claim:
    why = (
        "the groups without decay hold other parameters of one dimension, and not this one"
        if exempt
        else "no parameter is exempt"
    )
    return Claim(
        tensors=tensors,
        message="{fqn} began at 1 and has sunk to {now:.2f}, as its weight decay of {weight_decay:.3g} explains "
        "({explained:.2f}); {count} gains sink alike, for " + why + ".",
        advice="Exempt gains and biases from weight decay by shape (ndim below 2), not by name.",
        evidence={
            "now": now,
            "explained": np.exp(-decayed),
            "weight_decay": view.weight_decay[tensors],
            "lr": view.lr[tensors],
        },
        first_step=view.base_step + 1,
        last_good_step=view.base_step,
        severity=None if exempt else Severity.INFO,
    )


class _Gains(NamedTuple):
    """Gains that a decoupled optimizer decays; whether it exempts something that is like them, or nothing at all."""

    tensors: IntArray
    exempt: bool


def _gains(view: View) -> _Gains | None:
    seen, first = view.optimizers, view.first_digests()
    if seen is None or first is None:
        return None
    flat = np.array([len(shape) == 1 and shape[0] > 1 for shape in view.tensors.shape], np.bool_)
    flat &= view.tensors.is_param & view.tensors.trainable
    ones = flat & (first["count"] > 0) & (first["square_sum"] == first["count"])
    decay = view.weight_decay
    mine = ones & _held_by_decoupled(view, seen) & (decay > 0)
    if mine.sum() < 2 or mine.sum() < 0.5 * (ones & view.held).sum():
        return _Gains(np.empty(0, np.int64), False)
    return _Gains(np.flatnonzero(mine), _exempts(seen, flat, decay))


def _held_by_decoupled(view: View, seen: OptimizersSeen) -> BoolArray:
    mask = np.zeros(view.num_tensors, np.bool_)
    for owner, tensors in zip(seen.group_optimizer, seen.group_tensors, strict=True):
        if _DECOUPLED.search(seen.optimizers[owner]):
            mask[[index for index in tensors if index >= 0]] = True
    return mask


def _exempts(seen: OptimizersSeen, flat: BoolArray, decay: FloatArray) -> bool:
    """Whether some group holds one-dimensional parameters and no others, undecayed; or holds nothing."""
    foreign = {parameter.group for parameter in seen.foreign}
    for number, group in enumerate(seen.group_tensors):
        tensors = [index for index in group if index >= 0]
        if not tensors and number not in foreign and len(seen.group_tensors) > 1:
            return True
        if tensors and flat[tensors].all() and (decay[tensors] == 0).all():
            return True
    return False
