"""
The detector parameter-stuck: a parameter that has a gradient and an optimizer, and does not move.
"""

from __future__ import annotations

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
from trainvitals_monitor.detectors.stepping import NORMALISING, RELATIVE, SATISFIED, stepped_by
from trainvitals_monitor.detectors.stretch import Stretch, look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_ROUNDING = 1e-5
"""Relative error of a norm."""


class ParameterStuck(Detector):
    """
    Detects:
        A trainable float32 parameter that an optimizer holds at a learning rate above 0 and whose gradient is of the
        size of the other parameters', yet none of the elements looked at changes for several steps of its optimizer.

    Why it matters:
        A part of the model is not trained although everything seems to be in place.

    Known causes:
        The optimizer steps a copy (a deep copy, or what it was before it was sharded:
        https://github.com/huggingface/accelerate/issues/2665) of the parameter; a hook or a loop restores the weights
        after each step; weights tied or broadcast over the update; a step that is skipped inside the optimizer.

    Fix:
        Compare `id(param)` with the optimizer's groups, and look for code that writes the parameter after the step.

    Misses:
        Elements outside the cores of a large tensor; parameters of 16 bits (updates-lost); gradients or learning rates
        so small that the step may vanish by rounding. A parameter of which every element is of one size may lie at the
        bound that it is clamped to after each step (the critic of a WGAN), and is left out if it has moved before or has
        both signs; a large one, whose extremes are not known, is reported: declare it under `ignore`. With L-BFGS, which
        stops when it is satisfied, a model that stands still as a whole.
    """

    name = "parameter-stuck"
    family = "movement"
    severity = Severity.WARNING
    summary = "A parameter with a gradient and an optimizer does not move."
    reads = (
        *("changed", "with_gradient", "since", "grad_norm", "norm", "low", "high"),
        *("OptimizersSeen", "lr"),
    )
    alert = Alert(hold="5m", summary="A parameter gets gradients and does not move")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="steps of its optimizer",
            reason="long enough for gradient scalers that skip a few steps at the start",
        ),
        Threshold(
            name="gradient_share",
            default=1e-4,
            unit="ratio to the model's median gradient (root mean square)",
            reason="a bias in front of a normalisation has rounding noise for a gradient, about 1e-7 of the others'",
        ),
        Threshold(
            name="step_ulps",
            default=16,
            unit="ulps of float32",
            reason="a step below that may be rounded away by right: a plain one where gradients are small, any at the "
            "end of a decay to zero",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        suspects = self._suspects(view)
        if not len(suspects):
            return
        stretch, steps = _unmoved(view, suspects)
        long = (steps >= self.threshold("steps", view)[suspects]) & (stretch.looks >= 3)
        long &= ~_at_a_bound(view, suspects, stretch)
        if not long.any():
            return
        tensors = suspects[long]
        yield Claim(
            tensors=tensors,
            message="{fqn} has not moved for {steps} steps of its optimizer, although it has a gradient "
            "(norm {grad_norm:.2g}) and a learning rate of {lr:.2g}.",
            advice="See whether the optimizer holds this very parameter, and whether something writes it back.",
            evidence={
                "steps": steps[long],
                "grad_norm": view.latest("grad_norm")[tensors],
                "lr": view.lr[tensors],
            },
            first_step=stretch.first_step[long],
            last_good_step=stretch.last_good_step[long],
        )

    def _suspects(self, view: View) -> IntArray:
        """Tensors that did not move in this step although they should have, lora-b-stuck's left out."""
        with np.errstate(invalid="ignore"):
            mask = (view.now("changed") == 0) & (view.now("with_gradient") > 0)
            mask &= view.tensors.float_bits >= 32
            if not mask.any():
                return np.empty(0, np.int64)
            table, norm = view.tensors, view.latest("norm")
            mask &= table.trainable & view.held & (view.lr > 0)
            mask &= ~(table.mask(Role.LORA_B) & (norm == 0))
            if view.optimizers is not None and view.optimizers.masters:
                mask &= False
            satisfied = stepped_by(view, SATISFIED)
            if not (satisfied & (view.now("changed") > 0)).any():
                mask &= ~satisfied
            return (
                np.flatnonzero(mask & self._should_move(view))
                if mask.any()
                else np.flatnonzero(mask)
            )

    def _should_move(self, view: View) -> BoolArray:
        grad = view.latest("grad_norm")
        size = grad / np.sqrt(np.maximum(view.tensors.numel, 1))
        real = np.isfinite(size) & (size > 0)
        if not real.any():
            return real
        enough: BoolArray = real & (
            size >= self.threshold("gradient_share", view) * np.median(size[real])
        )
        typical = view.latest("norm") / np.sqrt(np.maximum(view.tensors.numel, 1))
        normalised, relative = stepped_by(view, NORMALISING), stepped_by(view, RELATIVE)
        step = view.lr * np.where(relative, typical, np.where(normalised, 1.0, size))
        visible: BoolArray = step >= self.threshold("step_ulps", view) * typical * 2.0**-23
        return enough & visible


def _at_a_bound(view: View, suspects: IntArray, stretch: Stretch) -> BoolArray:
    """Which of them may be held by a clamp: all elements of one size, of both signs or after having moved."""
    low, high = view.latest("low")[suspects], view.latest("high")[suspects]
    typical = view.latest("norm")[suspects] / np.sqrt(np.maximum(view.tensors.numel[suspects], 1))
    with np.errstate(invalid="ignore"):
        bound = np.maximum(np.abs(low), np.abs(high))
        one_size = (bound > 0) & (np.abs(typical - bound) <= _ROUNDING * bound)
        clamped: BoolArray = one_size & (((low < 0) & (high > 0)) | (stretch.last_good_step >= 0))
    return clamped


def _unmoved(view: View, suspects: IntArray) -> tuple[Stretch, IntArray]:
    changed, seen = look_back(view, "changed", _WINDOW, suspects)
    tried, _ = look_back(view, "with_gradient", _WINDOW, suspects)
    since, _ = look_back(view, "since", _WINDOW, suspects)
    with np.errstate(invalid="ignore"):
        # A look without a gradient at the elements looked at says nothing, for or against.
        stretch = stretch_of(
            changed == 0, seen & ((changed > 0) | (tried > 0)), view.window_steps(_WINDOW)
        )
    steps = np.where(stretch.inside, since, 0).sum(axis=0).astype(np.int64)
    return stretch, steps
