"""
The detector base-weights-moved: the frozen weight under a LoRA adapter changes while the adapter is trained.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.contract import FLOAT_BITS, MANTISSA_BITS
from trainvitals_monitor.detectors.adapters import adapters_of
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.frozen import declared_frozen, loaded_meanwhile
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 16


class BaseWeightsMoved(Detector):
    """
    Detects:
        The frozen weight that a trainable LoRA adapter adapts, held by no optimizer, moves again and again by more than
        rounding. Loads are not counted.

    Why it matters:
        Only the adapter is saved. It was trained on top of a base that exists nowhere but in this process, and with the
        published base it gives another model; what the base had learnt is lost along with it.

    Known causes:
        A merge for a rollout or a save that adds the adapter to the base each time it is called
        (https://github.com/huggingface/peft/pull/1355), or that is not taken out again; an initialisation that runs
        again; weights tied to trained ones.

    Fix:
        Merge adapters into a copy, or keep the base's own tensors aside and put them back.

    Misses:
        A base that is merged and restored moves by about one ulp each time, which is passed over, though in bfloat16 it
        adds up over hundreds of times (https://github.com/huggingface/trl/issues/6688); so is one that is merged once in
        hundreds of steps by design (ReLoRA). A base that an optimizer holds, or that is declared frozen, is
        frozen-parameter-moved's.
    """

    name = "base-weights-moved"
    family = "lora"
    severity = Severity.CRITICAL
    summary = "The frozen weight under a LoRA adapter keeps changing."
    reads = (
        "changed",
        "looked",
        "update_norm",
        "norm",
        "since",
        "CheckpointSeen",
        "OptimizersSeen",
    )
    alert = Alert(summary="The frozen weights under a LoRA adapter change")
    thresholds = (
        Threshold(
            name="moves",
            default=3,
            unit="looks of the last 16",
            reason="a merge by design happens once in hundreds of steps",
        ),
        Threshold(
            name="ulps",
            default=4,
            unit="ulps (root mean square)",
            reason="merging an adapter and taking it out again leaves about one ulp",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        base = view.cached(self.name, lambda: _bases(view))
        with np.errstate(invalid="ignore"):
            moved = np.flatnonzero(base & (view.now("changed") > 0))
        if not len(moved) or loaded_meanwhile(view):
            return
        tensors = moved[self._keeps_moving(view, moved)]
        if not len(tensors):
            return
        yield Claim(
            tensors=tensors,
            message="{fqn} is the frozen base of a LoRA adapter, and {changed:.0f} of the {looked:.0f} elements looked at "
            "changed in step {moved_step}.",
            advice="Merge adapters into a copy, keep the base out of what writes weights, and load it again.",
            evidence={
                "moved_step": np.full(len(tensors), view.step),
                "changed": view.latest("changed")[tensors],
                "looked": view.latest("looked")[tensors],
                "update_norm": view.latest("update_norm")[tensors],
                "norm": view.latest("norm")[tensors],
            },
        )

    def _keeps_moving(self, view: View, tensors: IntArray) -> BoolArray:
        changed, seen = look_back(view, "changed", _WINDOW, tensors)
        update, _ = look_back(view, "update_norm", _WINDOW, tensors)
        rounding = self.threshold("ulps", view)[tensors] * _ulp(view, tensors)
        with np.errstate(invalid="ignore"):
            real = seen & (changed > 0) & (update > rounding * view.latest("norm")[tensors])
        enough: BoolArray = real.sum(axis=0) >= self.threshold("moves", view)[tensors]
        return enough


def _bases(view: View) -> BoolArray:
    """Frozen weights under a trainable adapter, held by no optimizer, about which nothing is declared."""
    adapters, mask = adapters_of(view), np.zeros(view.num_tensors, np.bool_)
    live = (adapters.base >= 0) & view.tensors.trainable[adapters.b]
    mask[adapters.base[live]] = True
    return mask & ~view.tensors.trainable & ~view.held & ~declared_frozen(view)


def _ulp(view: View, tensors: IntArray) -> FloatArray:
    """One ulp of the dtype relative to the value; of the narrowest for dtypes that are not known."""
    dtypes = [view.tensors.dtype[index] for index in tensors.tolist()]
    bits = [MANTISSA_BITS.get(dtype, 2 if dtype in FLOAT_BITS else 52) for dtype in dtypes]
    return np.exp2(-np.array(bits, np.float64))
