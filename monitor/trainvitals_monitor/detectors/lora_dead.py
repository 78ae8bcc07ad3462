"""
The detector lora-dead: a LoRA adapter whose A and B are both zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.adapters import Adapters, adapters_of, is_trained
from trainvitals_monitor.detectors.detector import Alert, BoolArray, Claim, Detector, Threshold
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class LoraDead(Detector):
    """
    Detects:
        A LoRA adapter whose A and B are both exactly zero after steps of the optimizer that holds B, at a learning rate
        above 0: the gradient of each is a product with the other, so that both are zero for ever.

    Why it matters:
        The adapter does nothing and never will: the run is the base model, at the full cost of a fine-tuning, and what it
        saves is an adapter of zeros.

    Known causes:
        Adapters from fresh zero pages after `to_empty()` on the meta device
        (https://github.com/pytorch/torchtitan/issues/421); adapters that are made before the model initialises its
        weights (https://github.com/nvidia-cosmos/cosmos-predict2.5/pull/15); the slot of a deleted adapter, cleared and
        taken for the next one (https://github.com/NovaSky-AI/SkyRL/pull/852).

    Fix:
        Initialise A (Kaiming) after materialising and initialising the model, and whenever an adapter is reused; make the
        optimizer after that.

    Misses:
        An adapter that is not active has no gradient at all, and is left alone. One with A alone at zero trains, and so
        does one with B alone at zero (lora-b-stuck where it should have moved).
    """

    name = "lora-dead"
    family = "lora"
    severity = Severity.CRITICAL
    summary = "A and B of a LoRA adapter are both zero: it does nothing, and never will."
    reads = ("norm", "grad_missing", "OptimizersSeen", "lr")
    alert = Alert(summary="A LoRA adapter is dead: its A and B are both zero")
    thresholds = (
        Threshold(
            name="looks",
            default=2,
            unit="looks in a row, each after a step",
            reason="one look may fall between the two halves of a reset by hand, and the next step moves a live adapter",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        adapters = adapters_of(view)
        if not len(adapters.b):
            return
        suspects = np.flatnonzero(_dead(view, adapters))
        if not len(suspects):
            return
        a, b = adapters.a[suspects], adapters.b[suspects]
        norm_of_a, seen_a = look_back(view, "norm", _WINDOW, a)
        norm_of_b, seen_b = look_back(view, "norm", _WINDOW, b)
        zero = (norm_of_a == 0) & (norm_of_b == 0)
        stretch = stretch_of(zero, seen_a & seen_b, view.window_steps(_WINDOW))
        long = stretch.looks >= self.threshold("looks", view)[b]
        if not long.any():
            return
        a, b = a[long], b[long]
        yield Claim(
            tensors=np.concatenate([b, a]),
            message="{fqn} and {other} have both been exactly zero at {looks} looks: neither gets a gradient, and the "
            "adapter does nothing.",
            advice="Initialise A after the model is materialised and initialised, and make the optimizer after that.",
            evidence={
                "other": [view.tensors.fqn[index] for index in np.concatenate([a, b])],
                "looks": np.tile(stretch.looks[long], 2),
            },
            first_step=np.tile(stretch.first_step[long], 2),
        )


def _dead(view: View, adapters: Adapters) -> BoolArray:
    """Adapters that are all zero now, though B is trained and reached by the backward pass."""
    norm = view.now("norm")
    dead: BoolArray = (norm[adapters.a] == 0) & (norm[adapters.b] == 0)
    return dead & is_trained(view, adapters) if dead.any() else dead
