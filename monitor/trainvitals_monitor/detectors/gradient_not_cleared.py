"""
The detector gradient-not-cleared: gradients of past steps that are still there when the next ones are added.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 16


class GradientNotCleared(Detector):
    """
    Detects:
        Gradients that are the same tensors from step to step, with one single write to them in between (a backward pass
        that adds to them; clearing them would be a second one), that stay parallel to what they were, and grow.

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
        Gradients that are clipped in place, or accumulated over several backward passes a step: more writes a step
        could be a clearing as well. A fault that begins between two bursts of looks and no longer grows at the next.
    """

    name = "gradient-not-cleared"
    family = "gradients"
    severity = Severity.WARNING
    summary = "Gradients of past steps are added to those of the next."
    reads = ("writes", "kept_dot", "kept_before", "kept_square")
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
        if not (view.now("writes") == 1).any():
            return
        writes, _ = view.window("writes", _WINDOW)
        enough = int(self.value("looks"))
        if len(writes) < enough:
            return
        last = writes[-enough:]
        with np.errstate(invalid="ignore"):
            tensors = np.flatnonzero((last == 1).all(axis=0))
            # One that is cleared, or written to more than once, says that the trainer knows about clearing.
            others = ((last >= 0) & (last != 1)).any(axis=0).any()
        if not len(tensors) or others:
            return
        dot, before, square = (
            view.window(stat, enough)[0][:, tensors].sum(axis=1)
            for stat in ("kept_dot", "kept_before", "kept_square")
        )
        with np.errstate(all="ignore"):
            cosine = float(np.median(dot / np.sqrt(before * square)))
            growth = float(np.sqrt(square[-1] / before[0]))
        if not (cosine >= self.value("cosine") and growth >= self.value("growth")):
            return
        steps = view.window_steps(enough)
        count = len(tensors)
        yield Claim(
            tensors=tensors,
            message="gradients are not cleared between steps: {fqn}'s was only added to at {looks} steps in a row, "
            "is at a cosine of {cosine:.2f} to the one before, and has grown {growth:.1f} times.",
            advice="Call optimizer.zero_grad() once a step, before the backward pass.",
            evidence={
                "looks": np.full(count, enough),
                "cosine": np.full(count, cosine),
                "growth": np.full(count, growth),
            },
            first_step=np.full(count, int(steps[0])),
        )
