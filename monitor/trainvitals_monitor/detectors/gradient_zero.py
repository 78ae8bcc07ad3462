"""
The detector gradient-zero: gradients that are there, and are exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.adapters import waits_for_b
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.losses import main_losses
from trainvitals_monitor.detectors.upstream import is_front
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256


class GradientZero(Detector):
    """
    Detects:
        A trainable parameter that an optimizer holds and whose gradient was exactly zero at every look since the
        attempt began, while others had gradients and moved (info where it is not at the model's front, in the order of
        registration: a head or branch may have nothing to do). Or all gradients together: exactly zero, or missing and nothing moves, at every look, though
        the loss is not zero.

    Why it matters:
        This part of the model keeps its initial values, or the whole of it does, while the loss curve looks busy.

    Known causes:
        `zero_grad()` between `backward()` and `step()` (https://github.com/lucidrains/byol-pytorch/issues/93,
        https://github.com/cloneofsimo/lora/issues/263); rounding, sign or argmax without a straight-through estimator;
        a layer of ReLUs that are all dead; a loss term multiplied by zero; a softmax over one element (the router of a
        mixture of experts with one expert per token and normalised weights).

    Fix:
        Read `.grad` right after `backward()`: if it is zero there, follow the graph from the loss; if not, see what
        writes to it before the step.

    Misses:
        A head, one expert or one adapter of several: not used by intent, or by fault (info). LoRA's A behind a B that stays zero
        (lora-b-stuck). Parts whose gradients become zero later on. A zero loss, as of a margin that is kept or of rewards that are all alike, has zero gradients by right.
    """

    name = "gradient-zero"
    family = "coverage"
    severity = Severity.WARNING
    summary = "A gradient is there, and is exactly zero at every step."
    reads = ("grad_norm", "grad_missing", "changed", "scalars", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Gradients are exactly zero at every step")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks",
            reason="what is behind a gate or adapter that starts at zero has no gradient until that has moved once",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if view.step - view.base_step > _WINDOW:
            return
        with np.errstate(invalid="ignore"):
            zero_now = (view.now("grad_norm") == 0) & view.tensors.trainable & view.held
        suspects = np.flatnonzero(zero_now & view.tensors.is_param & (view.tensors.numel > 0))
        if not len(suspects):
            return
        norms, seen = view.window("grad_norm", _WINDOW)
        held = np.flatnonzero(view.held & view.tensors.is_param & view.tensors.trainable)
        # A look counts when something else had a gradient, after something has moved.
        alive = (norms[:, held] > 0).any(axis=1)
        if not alive.any():
            yield from self._all_zero(view, norms[:, held], seen[:, held], held)
            return
        moved = _has_moved(view, held)
        looks = (seen[:, suspects] & (alive & moved)[:, None]).sum(axis=0)
        ever = (norms[:, suspects] > 0).any(axis=0)
        missing, _ = view.window("grad_missing", _WINDOW)
        there = (missing[:, suspects] == 0).sum(axis=0) >= self.threshold("looks", view)[suspects]
        never = ~ever & there & (looks >= self.threshold("looks", view)[suspects])
        never &= ~waits_for_b(view)[suspects]  # lora-b-stuck says so
        if never.any():
            yield from _some_zero(view, suspects[never], looks[never])

    def _all_zero(
        self, view: View, norms: FloatArray, seen: BoolArray, held: IntArray
    ) -> Iterable[Claim]:
        """Not one gradient so far: a fault if the loss is not zero, and nothing moves."""
        rows = seen.all(axis=1)
        looks = int(rows.sum())
        if looks < self.value("looks") or not (norms[rows] == 0).all():
            return
        if view.optimizers is None or view.optimizers.masters:
            return
        if (view.latest("grad_missing")[held] == 1).any() and not _stands_still(view, held):
            return
        loss = _busy_loss(view, int(self.value("looks")))
        if loss is None:
            return
        yield Claim(
            tensors=held,
            message="no gradient at all, {fqn}'s included, reached the optimizer at any of {looks} looks since step "
            "{begin_step}, though the loss is {loss:.4g}.",
            advice="See whether zero_grad() is called between backward() and step(), or the loss is detached.",
            evidence={
                "looks": np.full(len(held), looks),
                "begin_step": np.full(len(held), view.base_step + 1),
                "loss": np.full(len(held), loss),
            },
            first_step=view.base_step + 1,
        )


def _has_moved(view: View, held: IntArray) -> BoolArray:
    """Per step of the window, whether any of these had moved before it: [k]."""
    changed, _ = view.window("changed", _WINDOW)
    with np.errstate(invalid="ignore"):
        moved = np.maximum.accumulate((changed[:, held] > 0).any(axis=1))
    before: BoolArray = np.concatenate([[False], moved[:-1]])
    return before


def _stands_still(view: View, held: IntArray) -> bool:
    """Whether all of these were looked at and none moved: an optimizer in the backward pass leaves no gradient either."""
    known = np.isfinite(view.latest("changed")[held]).all()
    return bool(known) and not _has_moved(view, held).any()


def _busy_loss(view: View, length: int) -> float | None:
    """The last of the losses if none of the last ones was zero and they differ; None: no loss, or no more to learn."""
    for name in main_losses(view):
        steps, values = view.scalar(name, length)
        if len(values) < length or steps[-1] < view.step - 1:
            continue
        if np.isfinite(values).all() and (values != 0).all() and np.ptp(values) > 0:
            return float(values[-1])
    return None


def _some_zero(view: View, tensors: IntArray, looks: IntArray) -> Iterable[Claim]:
    front = is_front(view, tensors)
    for chosen, severity in ((front, Severity.WARNING), (~front, Severity.INFO)):
        if chosen.any():
            yield Claim(
                tensors=tensors[chosen],
                message="{fqn}'s gradient was exactly zero at each of {looks} looks since step {begin_step}, while "
                "others had gradients and moved.",
                advice="Follow the graph from the loss to it: rounding, dead units, or a loss term multiplied by zero.",
                evidence={
                    "looks": looks[chosen],
                    "begin_step": np.full(int(chosen.sum()), view.base_step + 1),
                },
                first_step=view.base_step + 1,
                severity=severity,
                key="" if severity is Severity.WARNING else "not at the front",
            )
