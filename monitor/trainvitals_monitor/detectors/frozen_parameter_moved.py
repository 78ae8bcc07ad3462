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
        (https://github.com/iamwangyabin/S-Prompts/pull/2, https://github.com/KellerJordan/Muon/issues/54); frozen only
        after the gradients were there (https://github.com/neuralmagic/sparseml/issues/965); an initialisation that runs
        again; weights tied to trained ones.

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
        found, first = self._shrinks(view, rest)
        if found.any():
            why = "requires no gradient and shrinks at each step by its optimizer's weight decay"
            claim = _claim(view, rest[found], why)
            yield replace(claim, severity=Severity.WARNING, first_step=first[found])

    def _shrinks(self, view: View, tensors: IntArray) -> tuple[BoolArray, IntArray]:
        """
        What goes straight towards zero, by the rate that the optimizer has: its norm falls by all of the update. And the
        step of the first such look, among the last ones.
        """
        if not len(tensors):
            return np.zeros(0, np.bool_), tensors
        rows = _last_looks(view, tensors)
        norm, update, since = (
            np.where(rows < 0, view.window(stat, _WINDOW)[0][rows, tensors], np.nan)
            for stat in ("norm", "update_norm", "since")
        )
        before, norm, update, since = norm[:-1], norm[1:], update[1:], since[1:]
        rate = (view.lr * view.weight_decay)[tensors]
        bound = self.threshold("rate", view)[tensors]
        with np.errstate(all="ignore"):
            usable = (since > 0) & (before > 0) & (norm >= 0) & (update > 0)
            straight = usable & (np.abs(before - norm - update) <= bound * update)
            due = -np.expm1(since[-1] * np.log1p(-rate))
            paced = np.abs(update[-1] / before[-1] - due) <= bound * due
        enough = straight.sum(axis=0) >= self.threshold("decays", view)[tensors]
        found: BoolArray = enough & (usable == straight).all(axis=0) & (rate > 0) & paced
        first: IntArray = view.window_steps(_WINDOW)[
            rows[straight.argmax(axis=0) + 1, range(len(tensors))]
        ]
        return found, first


def _last_looks(view: View, tensors: IntArray) -> IntArray:
    """
    [looks, n]: the rows of each tensor's last looks, oldest first, counted from the window's end; 0: so many there are not.

    All of the window is gone through only where steps rest between looks.
    """
    for length in (_LOOKS, _WINDOW):
        seen = view.window("update_norm", length)[1][:, tensors]
        behind = np.cumsum(seen[::-1], axis=0, dtype=np.int16)[::-1]
        row, tensor = np.nonzero(seen & (behind <= _LOOKS))
        rows = np.zeros((_LOOKS, len(tensors)), np.int64)
        rows[-behind[row, tensor], tensor] = row - len(seen)
        if (rows < 0).all():
            break
    return rows


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
