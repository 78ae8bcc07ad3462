"""
The detector frozen-parameter-moved: what is declared frozen, or requires no gradient and is decayed, has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.frozen import declared_frozen, loaded_meanwhile
from trainvitals_monitor.detectors.stretch import look_back, looks_before
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256
_LOOKS = 16


class FrozenParameterMoved(Detector):
    """
    Detects:
        A tensor declared under `Contract(frozen=...)` of which an element changed; or a frozen parameter that an
        optimizer holds and that shrinks, at each step, by that optimizer's learning rate times weight decay. Loads are not
        counted.

    Why it matters:
        A frozen backbone that moves forgets what it had learnt. A reference model that moves makes every comparison with
        it void.

    Known causes:
        Weight decay or momentum of an optimizer that still holds the parameter
        (https://github.com/iamwangyabin/S-Prompts/pull/2, https://github.com/KellerJordan/Muon/issues/54); frozen only after the gradients were there
        (https://github.com/neuralmagic/sparseml/issues/965); an initialisation that runs again; weights tied to
        trained ones.

    Fix:
        Give the optimizer only what requires a gradient.

    Misses:
        Frozen parameters without a declaration that move otherwise than by decay: EMA teachers, target networks and
        codebooks are frozen too and move by right. What a LoRA adapter adapts is base-weights-moved's.
    """

    name = "frozen-parameter-moved"
    family = "movement"
    severity = Severity.CRITICAL
    summary = "A parameter that should be frozen has changed."
    reads = (
        "changed",
        "looked",
        "update_norm",
        "norm",
        "since",
        "weight_decay",
        "CheckpointSeen",
        "OptimizersSeen",
    )
    alert = Alert(summary="A frozen parameter has changed")
    thresholds = (
        Threshold(
            name="decays",
            default=8,
            unit="looks of the last 16",
            reason="so often an average does not go straight towards zero, and by the very rate of the decay",
        ),
        Threshold(
            name="rate",
            default=0.15,
            unit="relative difference",
            reason="norms of large tensors are estimated from their cores, to some percent",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        with np.errstate(invalid="ignore"):
            moved = view.now("changed") > 0
        declared = declared_frozen(view)
        decayed = view.tensors.is_param & ~view.tensors.trainable & view.held & ~declared
        moved &= declared | decayed
        if not moved.any() or loaded_meanwhile(view):
            return
        if (moved & declared).any():
            yield _claim(view, np.flatnonzero(moved & declared), "was declared frozen")
        rest = np.flatnonzero(moved & decayed)
        rest = rest[self._shrinks(view, rest)]
        if len(rest):
            why = "requires no gradient and shrinks at each step by its optimizer's weight decay"
            claim = _claim(view, rest, why)
            yield replace(claim, severity=Severity.WARNING, first_step=_first_of_last(view, rest))

    def _shrinks(self, view: View, tensors: IntArray) -> BoolArray:
        """What goes straight towards zero, by the rate that the optimizer has: its norm falls by all of the update."""
        if not len(tensors):
            return np.zeros(0, np.bool_)
        update, seen = look_back(view, "update_norm", _WINDOW, tensors)
        norm, sized = look_back(view, "norm", _WINDOW, tensors)
        since, _ = look_back(view, "since", _WINDOW, tensors)
        last = np.maximum(looks_before(seen), 0)
        before = np.where(looks_before(seen) >= 0, np.take_along_axis(norm, last, axis=0), np.nan)
        usable = seen & sized & _recent(seen, _LOOKS - 1) & (since > 0) & (before > 0)
        rate = (view.lr * view.weight_decay)[tensors]
        bound = self.threshold("rate", view)[tensors]
        with np.errstate(all="ignore"):
            straight = np.abs(before - norm - update) <= bound * update
            due = -np.expm1(since[-1] * np.log1p(-rate))
            paced = np.abs(update[-1] / before[-1] - due) <= bound * due
        enough = (usable & straight).sum(axis=0) >= self.threshold("decays", view)[tensors]
        found: BoolArray = enough & ~(usable & ~straight).any(axis=0) & (rate > 0) & paced
        return found


def _recent(seen: BoolArray, looks: int) -> BoolArray:
    """[k, n]: each tensor's last looks, however many steps rest in between."""
    recent: BoolArray = seen & (np.cumsum(seen[::-1], axis=0)[::-1] <= looks)
    return recent


def _first_of_last(view: View, tensors: IntArray) -> IntArray:
    """The step of the first of each tensor's last looks."""
    _, seen = look_back(view, "update_norm", _WINDOW, tensors)
    first: IntArray = view.window_steps(_WINDOW)[_recent(seen, _LOOKS).argmax(axis=0)]
    return first


def _claim(view: View, tensors: IntArray, why: str) -> Claim:
    changed = view.latest("changed")[tensors]
    return Claim(
        tensors=tensors,
        message=f"{{fqn}} {why}, and {{changed:.0f}} of the {{looked:.0f}} elements looked at changed in step "
        "{moved_step}.",
        advice="Take it out of every optimizer and out of what writes weights, and restore it from a checkpoint.",
        evidence={
            "moved_step": np.full(len(tensors), view.step),
            "changed": changed,
            "looked": view.latest("looked")[tensors],
            "update_norm": view.latest("update_norm")[tensors],
            "norm": view.latest("norm")[tensors],
        },
    )
