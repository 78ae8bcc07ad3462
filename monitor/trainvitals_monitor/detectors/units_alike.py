"""
The detector units-alike: weights whose rows begin alike and can never part, or whose zeros can never end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
# Optimizers that take only the gradient's sign: rows of unequal gradients may move alike for long.
_SIGNS = re.compile(r"lion|sign|rprop", re.IGNORECASE)


class UnitsAlike(Detector):
    """
    Detects:
        A trained weight of two dims or more whose rows were the same before the first step and, after several updates
        that moved it, still are, bit for bit. And weights of one module that began as zeros, all of them, are zero
        still, and have gradients of exactly zero, while gradients elsewhere are not.

    Why it matters:
        Units that begin alike get the same gradient for ever: a layer of many is worth one. Two layers of zeros, one
        after the other, keep each other's gradients at zero, and are never trained at all.

    Known causes:
        Weights initialised to a constant; zero initialisation of both layers of a branch, where the last one alone
        should be zero (https://github.com/yz93/LAVT-RIS/issues/25, https://github.com/Guitaricet/relora/issues/18,
        https://github.com/huggingface/transformers/issues/6236); parameters of `torch.zeros` that no initialisation
        reached.

    Fix:
        Draw the weights at random (Kaiming, Xavier), and zero only the last layer of a branch.

    Misses:
        Rows of sharded tensors; rows alike but for some. A single weight of zeros, as LoRA's B is, is sound: it moves
        at the first step. Zeros in front of zeros in two different modules are not seen.
    """

    name = "units-alike"
    family = "numbers"
    severity = Severity.WARNING
    summary = "A weight's rows can never part, or its zeros never end."
    reads = ("rows_alike", "changed", "norm", "grad_norm", "grad_missing", "OptimizersSeen")
    alert = Alert(hold="5m", summary="A layer's units are all the same, or zero for ever")
    thresholds = (
        Threshold(
            name="moves",
            default=6,
            unit="looks at which it moved, or had no gradient",
            reason="unequal gradients part rows at the first update, Adam's equal first steps at the second",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if not view.seen("rows_alike").any():
            return
        judged = view.seen("rows_alike") & view.tensors.trainable & view.held
        moved, _ = look_back(view, "changed", _WINDOW, np.flatnonzero(judged))
        with np.errstate(invalid="ignore"):
            moves = np.zeros(view.num_tensors, np.int64)
            moves[judged] = (moved > 0).sum(axis=0)
            alike = judged & (moves >= self.value("moves")) & (view.latest("grad_norm") > 0)
            alike &= (view.latest("norm") > 0) & ~_by_signs(view)
        if alike.any():
            tensors = np.flatnonzero(alike)
            yield Claim(
                tensors=tensors,
                message="the rows of {fqn} were all alike at the start and are so still, bit for bit, after {moves} "
                "looks at which it moved: its units can never part.",
                advice="Draw the weight at random: units that begin alike get the same gradient for ever.",
                evidence={
                    "moves": moves[tensors],
                    "rows": view.now("rows_alike")[tensors],
                    "norm": view.latest("norm")[tensors],
                },
                first_step=view.base_step + 1,
            )
        dead = self._dead(view, judged)
        if len(dead):
            yield Claim(
                tensors=dead,
                message="{fqn} and {others} other weights of its module began as zeros, and their gradients are "
                "exactly zero: they can never move.",
                advice="Draw all but the last of them at random: zeros behind zeros have no gradient.",
                evidence={"others": [len(dead) - 1], "norm": view.latest("norm")[dead]},
                first_step=view.base_step + 1,
            )

    def _dead(self, view: View, judged: BoolArray) -> IntArray:
        """Zero weights without gradient, in modules that have two of them and no other weight without gradient."""
        table = view.tensors
        grad, zero = view.latest("grad_norm"), view.latest("norm") == 0
        idle = table.trainable & view.held & (grad == 0)
        if not (view.latest("grad_norm")[view.held] > 0).any():
            return np.empty(0, np.int64)
        idle &= np.array([len(shape) > 1 for shape in table.shape], np.bool_)
        suspects = judged & idle & zero & ~table.mask(Role.LORA_A, Role.LORA_B, Role.EMBEDDING)
        rows = np.flatnonzero(suspects)
        norms, seen = look_back(view, "grad_norm", _WINDOW, rows)
        missing, _ = look_back(view, "grad_missing", _WINDOW, rows)
        never = (seen & (norms == 0) & (missing == 0)).sum(axis=0) >= self.value("moves")
        never &= ~((norms > 0) | (missing > 0)).any(axis=0)
        rows = rows[never]
        parents = [_parent(table.fqn[index]) for index in rows.tolist()]
        dead = set(rows.tolist())
        spoiled = {
            _parent(table.fqn[index])
            for index in np.flatnonzero(idle).tolist()
            if index not in dead
        }
        kept = [
            index
            for index, parent in zip(rows.tolist(), parents, strict=True)
            if parents.count(parent) > 1 and parent not in spoiled
        ]
        return np.array(kept, np.int64)


def _parent(fqn: str) -> str:
    """The module that holds the tensor's module: of `mlp.0.weight`, `mlp`."""
    return ".".join(fqn.split(".")[:-2])


def _by_signs(view: View) -> BoolArray:
    mask = np.zeros(view.num_tensors, np.bool_)
    seen = view.optimizers
    if seen is not None:
        for owner, tensors in zip(seen.group_optimizer, seen.group_tensors, strict=True):
            if _SIGNS.search(seen.optimizers[owner]):
                mask[[index for index in tensors if index >= 0]] = True
    return mask
