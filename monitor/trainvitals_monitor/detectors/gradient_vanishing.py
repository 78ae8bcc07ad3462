"""
The detector gradient-vanishing: gradients that die out on their way to the front of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.detectors.upstream import is_upstream
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class GradientVanishing(Detector):
    """
    Detects:
        Weights whose gradient is not zero, but next to nothing beside the largest that the same optimizer has (root mean
        square), at every look, and which lie before weights that do learn, by order and shapes.

    Why it matters:
        The front of the model does not learn: the gradient is lost on the way, and below an optimizer's eps even
        Adam makes nothing of it.

    Known causes:
        Many saturating layers without normalisation or residual connections; an initialisation far too small or too
        large; a scale that is applied in each layer.

    Fix:
        Normalise, add residual connections, or choose an initialisation that keeps the size of activations.

    Misses:
        Gradients that shrink by less: layer scales that begin at a millionth are in use. Gradients that are exactly zero
        (gradient-zero). Players with an optimizer of their own are not compared with each other.
    """

    name = "gradient-vanishing"
    family = "gradients"
    severity = Severity.WARNING
    summary = "Gradients die out on their way to the front of the model."
    reads = ("grad_norm", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Gradients vanish in a part of the model")
    thresholds = (
        Threshold(
            name="share",
            default=1e-10,
            unit="ratio to the largest gradient of the optimizer (root mean square)",
            reason="branches that are scaled by a millionth at first stay well above",
        ),
        Threshold(
            name="looks",
            default=12,
            unit="looks in a row",
            reason="adapters and gates that begin at zero open within a few steps",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        tiny = self._tiny(view, view.now("grad_norm"))
        suspects = np.flatnonzero(tiny)
        if not len(suspects):
            return
        norms, seen = view.window("grad_norm", _WINDOW)
        rows = [self._tiny(view, row)[suspects] for row in norms]
        bad, looked = np.array(rows), seen[:, suspects]
        looks = (bad & looked).sum(axis=0)
        enough = self.threshold("looks", view)[suspects]
        never = (looks >= enough) & (looks == looked.sum(axis=0))
        found = suspects[never]
        if not len(found):
            return
        matrices = np.array([len(view.tensors.shape[index]) > 1 for index in found])
        chosen = is_upstream(view, found) & matrices
        if not chosen.any():
            return
        tensors = found[chosen]
        first, _ = look_back(view, "grad_norm", _WINDOW, tensors)
        steps = view.window_steps(_WINDOW)
        largest = np.fmax.reduce(view.latest("grad_norm")[view.held])
        yield Claim(
            tensors=tensors,
            message="{fqn}'s gradient has a norm of {norm:.2g} at {looks} looks, while the largest one has {largest:.2g}: "
            "it is lost on the way to the front.",
            advice="Look at the layers behind it: saturation, initialisation, missing normalisation or residuals.",
            evidence={
                "norm": view.latest("grad_norm")[tensors],
                "looks": looks[never][chosen],
                "largest": np.full(len(tensors), largest),
            },
            first_step=steps[np.isfinite(first).argmax(axis=0)],
        )

    def _tiny(self, view: View, norms: FloatArray) -> BoolArray:
        """Gradients of one step that are next to nothing beside the largest of their optimizer."""
        optimizers = view.cached(self.name, lambda: _optimizer_of(view))
        size = np.where(np.isfinite(norms), norms, 0.0) / view.cached(
            "gradient-vanishing: sizes", lambda: np.sqrt(np.maximum(view.tensors.numel, 1))
        )
        largest = np.zeros(int(optimizers.max(initial=-1)) + 2)
        np.maximum.at(largest, optimizers, size)
        largest[-1] = 0.0  # of no optimizer
        tiny: BoolArray = (size > 0) & (size < self.threshold("share", view) * largest[optimizers])
        return tiny


def _optimizer_of(view: View) -> IntArray:
    """Per tensor, which optimizer holds it; -1 for none."""
    numbers = np.full(view.num_tensors, -1, np.int64)
    seen = view.optimizers
    if seen is not None:
        for group, tensors in zip(seen.group_optimizer, seen.group_tensors, strict=True):
            numbers[[index for index in tensors if index >= 0]] = group
    return numbers
