"""
The detector lora-a-growth: a LoRA A that is larger than initialisation and gradients can explain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from trainvitals_monitor.detectors.adapters import Adapters, adapters_of
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    Threshold,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256
_START = 4


class LoraAGrowth(Detector):
    """
    Detects:
        A LoRA A far wider than any initialisation in use while its B starts at zero (uninitialised memory); one that
        grows while its B is exactly zero and so has no gradient; one that has grown tenfold and past every
        initialisation in use.

    Why it matters:
        The product BA is the adapter. With a huge A the first steps of B throw the model off; with an A that grows
        without end the run diverges, and the loss may look only a little bad for long.

    Known causes:
        Adapters created on the meta device and left as `to_empty()` made them
        (https://github.com/pytorch/torchtitan/issues/421, https://github.com/Lightning-AI/lit-llama/issues/116); weights
        loaded and wiped afterwards; a learning rate meant for another optimizer.

    Fix:
        Initialise adapters after materialising them (Kaiming for A, zero for B), load the base after that, and check
        the learning rate.

    Misses:
        An A whose garbage is of an ordinary size. Adapters started from a decomposition of the base (PiSSA and the
        like) have no zero B, and are judged by growth only.
    """

    name = "lora-a-growth"
    family = "lora"
    severity = Severity.CRITICAL
    summary = "A LoRA A is far larger than its initialisation and gradients explain."
    reads = ("norm", "update_norm", "grad_norm", "exact")
    alert = Alert(summary="A LoRA A is far larger than its initialisation and gradients explain")
    thresholds = (
        Threshold(
            name="garbage",
            default=16.0,
            unit="ratio to the widest initialisation in use, 1/sqrt(rank)",
            reason="all published initialisations with B = 0 lie below 1; a standard normal at rank 128 at 11",
        ),
        Threshold(
            name="growth",
            default=10.0,
            unit="ratio to the norm at the first look",
            reason="fine-tuning moves A by tens of percent, small models at high rates a few-fold",
        ),
        Threshold(
            name="width",
            default=4.0,
            unit="ratio to the widest initialisation in use, 1/sqrt(rank)",
            reason="growth from a tiny start is no fault before A is wider than any start",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        adapters = adapters_of(view)
        if not len(adapters.a):
            return
        width = view.now("norm")[adapters.a] / (
            adapters.widest * np.sqrt(np.maximum(view.tensors.numel[adapters.a], 1))
        )
        norms = view.window("norm", _START)[0]
        yield from self._garbage(view, adapters, width)
        yield from self._without_gradient(view, adapters, norms)
        yield from self._grown(view, adapters, width)

    def _garbage(self, view: View, adapters: Adapters, width: FloatArray) -> Iterable[Claim]:
        """Wider than any initialisation in the first steps, with a B that began at zero."""
        if view.step - view.base_step > _START:
            return
        with np.errstate(invalid="ignore"):
            wide = width > self.threshold("garbage", view)[adapters.a]
        if wide.any() and (wide := wide & _b_began_at_zero(view, adapters)).any():
            yield _claim(
                view,
                adapters,
                wide,
                "{fqn} starts with elements of {size:.3g} (root mean square) beside a B of zero, {width:.0f} times the "
                "widest initialisation in use: it looks like uninitialised memory.",
                {"width": width[wide]},
            )

    def _without_gradient(
        self, view: View, adapters: Adapters, norms: FloatArray
    ) -> Iterable[Claim]:
        """B is zero before and after, so that A has no gradient; weight decay can only shrink it."""
        if len(norms) < 2:
            return
        before, now = norms[-2][adapters.a], norms[-1][adapters.a]
        b_before, b_now = norms[-2][adapters.b], norms[-1][adapters.b]
        grown = (b_before == 0) & (b_now == 0) & (now > 1.01 * before)
        if grown.any():
            yield _claim(
                view,
                adapters,
                grown,
                "{fqn} grew from {before:.3g} to {norm:.3g} in one step although its B is zero, so that no gradient can "
                "have moved it.",
                {"before": before[grown]},
            )

    def _grown(self, view: View, adapters: Adapters, width: FloatArray) -> Iterable[Claim]:
        with np.errstate(invalid="ignore"):
            wide = width > self.threshold("width", view)[adapters.a]
        if not wide.any():
            return
        values, seen = view.window("norm", _WINDOW)
        chosen = adapters.a[wide]
        first = values[:, chosen][seen[:, chosen].argmax(axis=0), np.arange(len(chosen))]
        with np.errstate(invalid="ignore"):
            far = view.now("norm")[chosen] > self.threshold("growth", view)[chosen] * first
        wide[wide] = far
        if wide.any():
            yield _claim(
                view,
                adapters,
                wide,
                "the norm of {fqn} grew from {before:.3g} to {norm:.3g}, {width:.0f} times the widest initialisation in "
                "use.",
                {"before": first[far], "width": width[wide]},
            )


def _b_began_at_zero(view: View, adapters: Adapters) -> BoolArray:
    """At its first look B is zero, or has the norm of one update: what an update from zero leaves."""
    norm, seen = view.window("norm", _START)
    update, _ = view.window("update_norm", _START)
    columns = np.arange(len(adapters.b))
    rows = seen[:, adapters.b].argmax(axis=0)
    first = norm[:, adapters.b][rows, columns]
    moved = update[:, adapters.b][rows, columns]
    with np.errstate(invalid="ignore"):
        began: BoolArray = (first == 0) | (np.abs(first - moved) <= 0.02 * first)
    return began


def _claim(
    view: View, adapters: Adapters, chosen: BoolArray, message: str, evidence: dict[str, Any]
) -> Claim:
    tensors = adapters.a[chosen]
    norm = view.now("norm")[tensors]
    return Claim(
        tensors=tensors,
        message=message,
        advice="Initialise the adapters after materialising the model, load the base after that, and check the "
        "learning rate.",
        evidence={
            "norm": norm,
            "size": norm / np.sqrt(np.maximum(view.tensors.numel[tensors], 1)),
            "norm_of_b": view.latest("norm")[adapters.b[chosen]],
            "grad_norm": view.latest("grad_norm")[tensors],
            **evidence,
        },
    )
