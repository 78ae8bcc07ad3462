"""
The detector gradient-not-cleared: gradients of past steps that are still there when the next ones are added.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.gradient_norms import gradient_norms
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_PARALLEL = 0.99
"""Cosine from which on gradients may as well be those of one and the same batch, which clipping keeps from growing."""
_BOUND = 1e-3
"""Relative deviation up to which a norm is at the bound of clipping."""


class GradientNotCleared(Detector):
    """
    Detects:
        Gradients that are the same tensors from step to step, with one single write to them in between (a backward pass
        that adds to them; clearing them would be a second one), that stay parallel to what they were, and grow. Or with
        two writes, while the norm of all gradients is at one bound at nearly every step: the second one is clipping.

    Why it matters:
        Each step repeats all past batches: a momentum of 1 without any damping, which oscillates or explodes, and
        learns worse where it does neither.

    Known causes:
        `zero_grad()` is forgotten, called on another optimizer or another model, or before the wrong loop
        (https://stackoverflow.com/q/60335387, https://github.com/wenet-e2e/wekws/issues/73,
        https://github.com/meta-pytorch/torchforge/issues/71).

    Fix:
        Call `optimizer.zero_grad()` once a step, before the backward pass.

    Misses:
        Gradients that are unscaled in place, or accumulated over several backward passes a step: more writes a step
        could be a clearing as well. Clipped gradients of a full batch. A fault that begins between
        two bursts of looks and no longer grows at the next. A fault that begins after the start where steps are so short
        that looks at them come in twos: it takes twelve neighbouring steps that are looked at.
    """

    name = "gradient-not-cleared"
    family = "gradients"
    severity = Severity.WARNING
    summary = "Gradients of past steps are added to those of the next."
    reads = ("writes", "kept_dot", "kept_before", "kept_square", "grad_norm")
    alert = Alert(summary="Gradients are not cleared between two steps")
    thresholds = (
        Threshold(
            name="looks",
            default=10,
            unit="steps in a row",
            reason="a sum of so many gradients grows by any measure",
        ),
        Threshold(
            name="cosine",
            default=0.85,
            unit="median cosine with the gradient of the step before",
            reason="a sum of k gradients is at sqrt((k - 1) / k) to the one before even if they have nothing in common",
        ),
        Threshold(
            name="growth",
            default=2.0,
            unit="ratio of the norms, last to first",
            reason="gradients of a full batch are parallel too, but they seldom grow; sums at least as sqrt(k)",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        enough = int(self.value("looks"))
        if not np.isfinite(view.now("writes")).any():
            return
        writes, _ = view.window("writes", enough)
        if len(writes) < enough:
            return
        clipped = self._is_clipped(view, enough)
        allowed = 2 if clipped else 1  # the backward pass, and the clipping
        known = np.isfinite(writes).any(axis=0)
        tensors = np.flatnonzero((writes == allowed).all(axis=0))
        # One that was written to more often says that the trainer knows about clearing.
        if not len(tensors) or len(tensors) < known.sum():
            return
        dot, before, square = (
            view.window(stat, enough)[0][:, tensors].sum(axis=1)
            for stat in ("kept_dot", "kept_before", "kept_square")
        )
        with np.errstate(all="ignore"):
            cosine = float(np.median(dot / np.sqrt(before * square)))
            growth = float(np.sqrt(square[-1] / before[0]))
        adds_up = cosine < _PARALLEL if clipped else growth >= self.value("growth")
        if not (cosine >= self.value("cosine") and adds_up):
            return
        steps = view.window_steps(enough)
        count = len(tensors)
        yield Claim(
            tensors=tensors,
            message="gradients are not cleared between steps: {fqn}'s was only added to"
            f"{' and clipped' if clipped else ''}"
            " at {looks} steps in a row, is at a cosine of {cosine:.2f} to the one before, and has {growth:.1f} times "
            "the norm of the first.",
            advice="Call optimizer.zero_grad() once a step, before the backward pass.",
            evidence={
                "looks": np.full(count, enough),
                "cosine": np.full(count, cosine),
                "growth": np.full(count, growth),
            },
            first_step=np.full(count, int(steps[0])),
        )

    def _is_clipped(self, view: View, looks: int) -> bool:
        """Whether the norm of all gradients is at one bound at most of the steps."""
        looked = gradient_norms(view, looks, looks)
        if looked is None:
            return False
        bound = looked.total.max()
        return bool(bound > 0) and bool(((bound - looked.total) <= _BOUND * bound).mean() >= 0.75)
