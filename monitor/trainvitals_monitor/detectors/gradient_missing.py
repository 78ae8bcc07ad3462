"""
The detector gradient-missing: a trainable parameter that backward never reaches.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.detectors.upstream import is_upstream
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256


class GradientMissing(Detector):
    """
    Detects:
        A trainable parameter that an optimizer holds and whose `.grad` was None at every look since the attempt began,
        while other parameters of the optimizers had gradients, where its part of the model ends in as many features as
        the next parameter, in the order of registration, takes. Elsewhere it is info.

    Why it matters:
        This part of the model keeps its initial values: it was meant to learn, and is random for ever.

    Known causes:
        A `detach()`, `.data`, `no_grad` or `.item()` between the module and the loss
        (https://github.com/speechbrain/speechbrain/issues/1396, https://github.com/coqui-ai/TTS/issues/2348); a module
        that is built and never called.

    Fix:
        Follow the graph from the loss back to the module; freeze with `requires_grad_(False)` what is not used.

    Misses:
        A gradient that is there and exactly zero (gradient-zero). What is cut off and looks like a head that is not used,
        by order and shapes, is info only. A part that this training does not use by intent, or not yet, is reported if
        its shapes say that it feeds what comes next: freeze it, or declare it under `ignore`.
    """

    name = "gradient-missing"
    family = "coverage"
    severity = Severity.WARNING
    summary = "A trainable parameter never gets a gradient."
    reads = ("grad_missing", "optimizer_step", "OptimizersSeen")
    alert = Alert(hold="5m", summary="A trainable parameter never gets a gradient")
    thresholds = (
        Threshold(
            name="looks",
            default=8,
            unit="looks",
            reason="heads, experts and the players of a GAN take turns, seldom for longer at the start",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        tensors = self._suspects(view)
        if not len(tensors):
            return
        values, seen = look_back(view, "grad_missing", _WINDOW, tensors)
        looks = (seen & (values == 1)).sum(axis=0)
        never = (looks == seen.sum(axis=0)) & (looks >= self.threshold("looks", view)[tensors])
        if not never.any() or not _others_have_one(view):
            return
        tensors, looks = tensors[never], looks[never]
        upstream = is_upstream(view, tensors)
        for chosen, severity in ((upstream, Severity.WARNING), (~upstream, Severity.INFO)):
            if chosen.any():
                yield Claim(
                    tensors=tensors[chosen],
                    message="{fqn} is trainable and in an optimizer, but had no gradient at any of the {looks} looks "
                    "since step {begin_step}.",
                    advice="Look for a detach() or no_grad between it and the loss, or freeze it if it is not to be "
                    "trained.",
                    evidence={
                        "looks": looks[chosen],
                        "begin_step": np.full(int(chosen.sum()), view.base_step + 1),
                    },
                    first_step=view.base_step + 1,
                    severity=severity,
                    key="" if severity is Severity.WARNING else "not upstream",
                )

    def _suspects(self, view: View) -> IntArray:
        missing = view.now("grad_missing") == 1
        if not missing.any():
            return np.empty(0, np.int64)
        missing = missing & view.tensors.trainable & view.tensors.is_param & view.held
        return (
            np.flatnonzero(missing & _never_stepped(view))
            if missing.any()
            else np.flatnonzero(missing)
        )


def _never_stepped(view: View) -> BoolArray:
    """What may be said to have had no gradient ever: the window reaches back to the start, or Adam's counter does."""
    steps = view.latest("optimizer_step")
    if view.step - view.base_step <= _WINDOW:
        return np.ones(view.num_tensors, np.bool_)
    with np.errstate(invalid="ignore"):
        known = (steps > 0).any()
        never: BoolArray = ~(steps > 0) & known
    return never


def _others_have_one(view: View) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((view.held & (view.latest("grad_missing") == 0)).any())
