"""
The detector lora-b-stuck: a LoRA B that never leaves zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.adapters import Adapters, adapters_of, is_trained
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class LoraBStuck(Detector):
    """
    Detects:
        A trainable LoRA B that is exactly zero for several steps of its optimizer at a learning rate above 0, although
        it has a gradient and its A is not zero.

    Why it matters:
        B starts at zero and leaves it in the first step. While it is zero the adapter does nothing: the run is the base
        model, at full cost.

    Known causes:
        An optimizer that steps other tensors than those of the model; a B that is written back, or initialised again,
        at each step.

    Fix:
        Make the optimizer after the model is materialised, from its own parameters, and initialise adapters once.

    Misses:
        An adapter that is not active has no gradient, or none but zeros, and is left alone. Where A is zero as well, it is
        lora-dead.
    """

    name = "lora-b-stuck"
    family = "lora"
    severity = Severity.CRITICAL
    summary = "A LoRA B stays at zero: its adapter does nothing."
    reads = ("norm", "since", "grad_norm", "grad_missing", "OptimizersSeen", "lr")
    alert = Alert(hold="1m", summary="A LoRA adapter does nothing: its B stays at zero")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="steps of its optimizer",
            reason="the first step at a learning rate above 0 moves B; a warm-up may have some at 0",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        adapters = adapters_of(view)
        if not len(adapters.b):
            return
        stuck = self._suspects(view, adapters)
        if not stuck.any():
            return
        tensors = adapters.b[stuck]
        norm, seen = look_back(view, "norm", _WINDOW, tensors)
        since, _ = look_back(view, "since", _WINDOW, tensors)
        stretch = stretch_of(norm == 0, seen, view.window_steps(_WINDOW))
        steps = np.where(stretch.inside, np.nan_to_num(since, nan=1.0), 0).sum(axis=0)
        long = steps >= self.threshold("steps", view)[tensors]
        if not long.any():
            return
        yield Claim(
            tensors=tensors[long],
            message="{fqn} has been exactly zero for {steps:.0f} steps of its optimizer although it has a gradient: the "
            "adapter does nothing.",
            advice="Check that the optimizer holds this very B, and that nothing writes it back.",
            evidence={
                "steps": steps[long],
                "norm_of_a": view.latest("norm")[adapters.a[stuck]][long],
                "grad_norm": view.latest("grad_norm")[tensors[long]],
            },
            first_step=stretch.first_step[long],
        )

    def _suspects(self, view: View, adapters: Adapters) -> BoolArray:
        b = adapters.b
        zero: BoolArray = view.now("norm")[b] == 0
        if not zero.any():
            return zero
        with np.errstate(invalid="ignore"):
            should_move = (view.latest("grad_norm")[b] > 0) & (view.latest("norm")[adapters.a] != 0)
        suspects: BoolArray = zero & is_trained(view, adapters) & should_move
        return suspects
