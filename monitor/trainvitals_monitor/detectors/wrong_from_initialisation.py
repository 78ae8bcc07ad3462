"""
The detector wrong-from-initialisation: weights that begin with values that no initialisation and no training gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from trainvitals.roles import Role
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

_FIRST_STEPS = 4
_FEWEST = 16
"""Elements below which nothing is said: temperatures, scales and gates begin where their authors like."""


class WrongFromInitialisation(Detector):
    """
    Detects:
        Before the first step, a trained parameter that holds denormal numbers beside elements wider than any
        initialisation, or (of two dims or more) zeros and denormal numbers alone, or an element of a million; a weight of
        two dims or more whose elements are many times wider than a standard normal's and than the model's other
        weights; one layer's weight that is many times wider than the same weight of the other layers, which agree; rotary
        frequencies (`*inv_freq`) that are all but zero, or far above one.

    Why it matters:
        One layer drowns all others, or none of its gradients says anything. Training may go on for long at a bad loss.

    Known causes:
        `nn.Parameter(torch.empty(...))` that no initialisation reaches (https://github.com/openai/CLIP/issues/15);
        modules made on the meta device and left as `to_empty()` made them
        (https://github.com/Lightning-AI/lit-llama/issues/116), non-persistent buffers above all, which no checkpoint
        fills either (https://github.com/huggingface/transformers/issues/45902); a standard deviation passed for a variance, or a gain
        that is applied twice, in one kind of layer.

    Fix:
        Initialise every parameter after the model is materialised, and check that no module is missed (`reset_parameters`
        of your own modules, `_init_weights` of the library's).

    Misses:
        Memory that happens to hold ordinary numbers or zeros; weights that are too small (many are meant to be);
        embeddings, and one-dimensional parameters unless they hold garbage. LoRA's A is lora-a-growth's.
    """

    name = "wrong-from-initialisation"
    family = "numbers"
    severity = Severity.CRITICAL
    summary = "A weight begins with values that no initialisation gives."
    reads = ("beginning", "norm", "OptimizersSeen")
    alert = Alert(summary="A weight begins with values that no initialisation gives")
    thresholds = (
        Threshold(
            name="garbage",
            default=1e6,
            unit="magnitude of an element",
            reason="trained weights' worst outliers are of a thousand; random bits are beyond this half of the time",
        ),
        Threshold(
            name="wide",
            default=8.0,
            unit="ratio to a standard normal's root mean square",
            reason="the widest initialisation in use is the standard normal, where the forward pass scales",
        ),
        Threshold(
            name="others",
            default=30.0,
            unit="ratio to the median of other weights",
            reason="gains, depth and fan-in make them differ by up to ten; a few published models reach fifteen",
        ),
        Threshold(
            name="agree",
            default=4.0,
            unit="ratio to their median",
            reason="layers that differ more among themselves give no scale to compare one with",
        ),
        Threshold(
            name="rotary",
            default=1e-6,
            unit="root mean square of rotary frequencies",
            reason="0.1 as a rule, 0.001 where a context is stretched by a hundred; below, no position differs from another",
        ),
        Threshold(
            name="fan_in",
            default=8.0,
            unit="ratio to 1/sqrt(fan-in)",
            reason="Kaiming's and orthogonal initialisations lie below 2; what is not wide by itself is left alone",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        if view.step - view.base_step > _FIRST_STEPS or view.is_late:
            return
        yield from self._rotary(view)
        begun = view.beginning()
        if begun is None or view.optimizers is None:
            return
        judged = view.tensors.is_param & view.tensors.trainable & (view.tensors.float_bits < 64)
        judged &= (begun["read"] >= _FEWEST) & ~view.tensors.mask(Role.LORA_A, Role.LORA_B)
        judged &= view.held
        rms = np.sqrt(begun["squares"] / np.maximum(begun["read"], 1))
        garbage = judged & self._garbage(begun, _matrices(view))
        evidence = {
            "rms": rms,
            "largest": begun["largest"],
            "zeros": begun["zeros"],
            "denormals": begun["denormals"],
            "read": begun["read"],
        }
        if garbage.any():
            yield _claim(
                view,
                garbage,
                "{fqn} begins with what looks like uninitialised memory: of {read} elements {zeros} are zero and "
                "{denormals} denormal, and the largest is {largest:.3g}.",
                evidence,
            )
        matrix = judged & ~garbage & _matrices(view) & ~view.tensors.mask(Role.EMBEDDING)
        wide, median = self._wide(matrix, rms)
        if wide.any():
            yield _claim(
                view,
                wide,
                "{fqn} begins with elements of {rms:.3g} (root mean square), {ratio:.0f} times the model's other "
                "weights.",
                {**evidence, "ratio": rms / median},
            )
        apart, ratio = self._apart(view, matrix & ~wide, rms)
        if apart.any():
            yield _claim(
                view,
                apart,
                "{fqn} begins with elements of {rms:.3g} (root mean square), {ratio:.0f} times those of the same weight "
                "in the other layers.",
                {**evidence, "ratio": ratio},
                Severity.WARNING,
            )

    def _rotary(self, view: View) -> Iterable[Claim]:
        tensors = np.flatnonzero(view.tensors.mask(Role.INV_FREQ) & view.seen("norm"))
        rms = view.now("norm")[tensors] / np.sqrt(np.maximum(view.tensors.numel[tensors], 1))
        with np.errstate(invalid="ignore"):
            wrong = (rms < self.threshold("rotary", view)[tensors]) | (rms > self.value("garbage"))
        if wrong.any():
            yield Claim(
                tensors=tensors[wrong],
                message="{fqn} begins with {rms:.3g} (root mean square), which are no rotary frequencies.",
                advice="Compute it anew after the model is materialised: it is in no checkpoint.",
                evidence={"rms": rms[wrong]},
                first_step=view.base_step + 1,
                last_good_step=-1,
                severity=Severity.WARNING,
                key="rotary",
            )

    def _garbage(self, begun: dict[str, Any], matrices: BoolArray) -> BoolArray:
        read, denormals, largest = begun["read"], begun["denormals"], begun["largest"]
        some = (denormals > 0) & (denormals + begun["zeros"] >= 0.01 * read)
        mixed = some & (largest >= 2 * self.value("wide"))
        residue = matrices & (denormals > 0) & (denormals + begun["zeros"] == read)
        found: BoolArray = mixed | residue | (largest >= self.value("garbage"))
        return found

    def _wide(self, matrix: BoolArray, rms: FloatArray) -> tuple[BoolArray, float]:
        """Wide by itself, and far wider than the others; there must be others."""
        sound = matrix & (rms > 0) & (rms < self.value("wide"))
        if sound.sum() < 2:
            return np.zeros_like(matrix), 1.0
        median = float(np.median(rms[sound]))
        wide = matrix & (rms >= self.value("wide")) & (rms >= self.value("others") * median)
        return wide, median

    def _apart(
        self, view: View, matrix: BoolArray, rms: FloatArray
    ) -> tuple[BoolArray, FloatArray]:
        """Of weights that differ in the layer's number alone, a few that are far wider than the rest."""
        apart, ratio = np.zeros_like(matrix), np.ones(len(matrix))
        layers: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for index in np.flatnonzero(matrix & (rms > 0)).tolist():
            table = view.tensors
            layers.setdefault((table.pattern[index], table.shape[index]), []).append(index)
        for (_, shape), members in layers.items():
            if len(members) < 3:
                continue
            own = rms[members]
            median = float(np.median(own))
            out = own >= self.value("others") * median
            out &= own * np.sqrt(np.prod(shape[1:])) >= self.value("fan_in")
            rest = own[~out]
            limit = self.value("agree")
            if out.any() and rest.max() <= limit * median and rest.min() * limit >= median:
                ratio[members] = own / median
                apart[np.array(members)[out]] = True
        return apart, ratio


def _matrices(view: View) -> BoolArray:
    """Two dims or more, none of them of length one: a linear map."""
    return view.cached(
        "matrices",
        lambda: np.array(
            [len(shape) > 1 and min(shape[:2]) > 1 for shape in view.tensors.shape], np.bool_
        ),
    )


def _claim(
    view: View,
    chosen: BoolArray,
    message: str,
    columns: dict[str, Any],
    severity: Severity | None = None,
) -> Claim:
    tensors = np.flatnonzero(chosen)
    return Claim(
        tensors=tensors,
        message=message,
        advice="Initialise it after the model is materialised; see which initialisation was to reach it.",
        evidence={name: values[tensors] for name, values in columns.items()},
        first_step=view.base_step + 1,
        last_good_step=-1,
        severity=severity,
    )
