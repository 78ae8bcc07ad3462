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
from trainvitals_monitor.detectors.stretch import look_back, looks_before
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_RECENT = 16
_WINDOW = 256


class BaseWeightsMoved(Detector):
    """
    Detects:
        The frozen weight that a trainable LoRA adapter adapts, held by no optimizer, moves again and again by more than
        rounding: at several of its last looks, or now and then while the adapter goes on as it was. Loads are not
        counted.

    Why it matters:
        Only the adapter is saved. It was trained on top of a base that exists nowhere but in this process, and with the
        published base it gives another model; what the base had learnt is lost along with it.

    Known causes:
        A merge for a rollout or a save that adds the adapter to the base each time it is called
        (https://github.com/huggingface/peft/pull/1355), or that is not taken out again
        (https://github.com/jingyaogong/minimind/pull/598); an initialisation that runs again; weights tied to trained
        ones.

    Fix:
        Merge adapters into a copy, or keep the base's own tensors aside and put them back.

    Misses:
        A base that is merged and restored moves by about one ulp each time, which is passed over, though in bfloat16 it
        adds up over hundreds of times (https://github.com/huggingface/trl/issues/6688); so are moves now and then in steps
        at which B was not looked at; so is one that is merged by
        design, where the adapter begins anew each time (ReLoRA). A base that an optimizer holds, or that is declared frozen, is
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
            unit="looks of the last 16, or of the last 256 if B is as large as before",
            reason="a merge by design happens once in hundreds of steps, and begins the adapter anew",
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
        keeps, first = self._keeps_moving(view, moved)
        tensors = moved[keeps]
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
            first_step=first[keeps],
        )

    def _keeps_moving(self, view: View, tensors: IntArray) -> tuple[BoolArray, IntArray]:
        """Which do, and the step of the first move that counts."""
        changed, seen = look_back(view, "changed", _WINDOW, tensors)
        update, _ = look_back(view, "update_norm", _WINDOW, tensors)
        rounding = self.threshold("ulps", view)[tensors] * _ulp(view, tensors)
        with np.errstate(invalid="ignore"):
            real = seen & (changed > 0) & (update > rounding * view.latest("norm")[tensors])
        recent, kept = real[-_RECENT:], real & _adapter_goes_on(view, tensors, looks_before(seen))
        moves, steps = self.threshold("moves", view)[tensors], view.window_steps(_WINDOW)
        often = recent.sum(axis=0) >= moves
        first = np.where(often, steps[-_RECENT:][recent.argmax(axis=0)], steps[kept.argmax(axis=0)])
        return often | (kept.sum(axis=0) >= moves), first


def _adapter_goes_on(view: View, tensors: IntArray, before: IntArray) -> BoolArray:
    """
    [k, n]: B was looked at in every step since the base's look before, and never lost anything of note: where it was
    not seen, the adapter may have begun anew, and grown since then.
    """
    adapters = adapters_of(view)
    b_of = dict(zip(adapters.base.tolist(), adapters.b.tolist(), strict=True))
    norm, seen = look_back(view, "norm", _WINDOW, np.array([b_of[one] for one in tensors.tolist()]))
    broken = np.ones(norm.shape, np.int64)
    in_a_row = np.diff(view.window_steps(_WINDOW)) == 1
    with np.errstate(invalid="ignore"):
        lasts = (norm[1:] > 0.5 * norm[:-1]) & (norm[:-1] > 0)
    broken[1:] -= lasts & seen[1:] & seen[:-1] & in_a_row[:, None]
    breaks = np.cumsum(broken, axis=0)
    since = np.take_along_axis(breaks, np.maximum(before, 0), axis=0)
    goes_on: BoolArray = (before >= 0) & (breaks == since)
    return goes_on


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
