"""
The detector optimizer-state-low-precision: an optimizer whose memory is too coarse to go on counting or averaging.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, FloatArray, Threshold
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256
_LAST_COUNTS = {256.0: "bfloat16", 2048.0: "float16", 16777216.0: "float32"}
"""The number from which on adding 1 gives the same number again."""


class OptimizerStateLowPrecision(Detector):
    """
    Detects:
        A step counter that stands still at 256, 2048 or 2^24 while its parameter moves: the last number that bfloat16,
        float16 or float32 can count to. Second moments of 16 bits beside wider parameters of which no element falls, of
        1,024 that had to: above twice the gradient's square. Moments of a narrower type than in the attempt before. Moments of 16 bits
        beside a float32 parameter are info.

    Why it matters:
        Bias correction and schedules read a counter that no longer counts. A second moment in bfloat16 can't follow:
        with beta2 = 0.999 what is added is less than half an ulp.

    Known causes:
        A counter that is made in the default dtype (https://github.com/pytorch/ao/pull/4915) or the parameter's
        (https://github.com/deepspeedai/DeepSpeed/pull/8496), or cast on loading
        (https://github.com/pytorch/pytorch/issues/74424).

    Fix:
        Keep counters as Python numbers or float32, and moments in float32; cast only what the optimizer expects.

    Misses:
        Quantised moments (8-bit optimizers) are by design and not looked at; moments as narrow as their parameters.
    """

    name = "optimizer-state-low-precision"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "An optimizer's counters or moments are kept too coarsely."
    reads = ("optimizer_step", "moment_bits", "update_norm", "due", "fell")
    alert = Alert(hold="5m", summary="The optimizer's state is kept too coarsely")
    thresholds = (
        Threshold(
            name="steps",
            default=16,
            unit="steps",
            reason="a counter looked at every few steps has moved by then, if it moves at all",
        ),
        Threshold(
            name="due",
            default=1024,
            unit="elements that had to fall, over all looks",
            reason="rounded stochastically one in sixty does even with beta2 = 0.9999, measured",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        yield from self._stopped_counting(view)
        if view.seen("due").any():
            yield from self._never_falls(view)
        bits = view.now("moment_bits")
        if np.isfinite(bits).any():
            yield from _narrowed(view, bits)
            yield from _narrow(view, bits)

    def _stopped_counting(self, view: View) -> Iterable[Claim]:
        counted = view.now("optimizer_step")
        suspects = np.flatnonzero(np.logical_or.reduce([counted == last for last in _LAST_COUNTS]))
        if not len(suspects):
            return
        values, _ = look_back(view, "optimizer_step", _WINDOW, suspects)
        steps = view.window_steps(_WINDOW)
        stood = values == values[-1]
        began = steps[stood.argmax(axis=0)]
        moved = (view.last_seen("update_norm")[suspects] > began) & (
            view.latest("update_norm")[suspects] > 0
        )
        # Looks from the first at this number to now: a counter that moves has it once.
        stuck = moved & (view.step - began >= self.value("steps")) & (stood.sum(axis=0) >= 3)
        if not stuck.any():
            return
        counts = values[-1][stuck]
        yield Claim(
            tensors=suspects[stuck],
            message="the optimizer's counter of {fqn} has stood at {reached} for {steps} steps, where {dtype} can count no "
            "further.",
            advice="Keep the counter as a Python number or in float32.",
            evidence={
                "reached": counts.astype(np.int64),
                "steps": (view.step - began)[stuck],
                "dtype": [_LAST_COUNTS[count] for count in counts.tolist()],
            },
            first_step=began[stuck],
            key="counter",
        )

    def _never_falls(self, view: View) -> Iterable[Claim]:
        """Of the whole model at once: one element that falls shows that they can."""
        due, seen = view.window("due", _WINDOW)
        fell, _ = view.window("fell", _WINDOW)
        if np.nansum(due) < self.value("due") or np.nansum(fell) > 0:
            return
        had_to = seen & (np.nan_to_num(due) > 0)
        tensors = np.flatnonzero(had_to.any(axis=0))
        yield Claim(
            tensors=tensors,
            message="no element of the second moment of {fqn} has fallen, of {due} that had to: 16 bits can't hold so small "
            "a decay.",
            advice="Keep exp_avg_sq in float32, round it stochastically, or take a beta2 of 0.99 or less.",
            evidence={"due": np.nansum(due[:, tensors], axis=0).astype(np.int64)},
            first_step=view.window_steps(_WINDOW)[had_to.argmax(axis=0)][tensors],
            key="decay",
        )


def _narrowed(view: View, bits: FloatArray) -> Iterable[Claim]:
    """Narrower than what the attempt before had for the same parameters."""
    previous = view.previous
    if previous is None:
        return
    before = previous.values.get("moment_bits", {})
    then = np.array([before.get(fqn, np.nan) for fqn in view.tensors.fqn])
    same = np.array(
        [
            previous.dtypes.get(fqn) == dtype
            for fqn, dtype in zip(view.tensors.fqn, view.tensors.dtype, strict=True)
        ],
        np.bool_,
    )
    with np.errstate(invalid="ignore"):
        tensors = np.flatnonzero(same & (bits < then) & (bits <= 16))
    if len(tensors):
        yield Claim(
            tensors=tensors,
            message="the optimizer's moments of {fqn} have {bits} bits, after {bits_before} in the attempt before.",
            advice="Load the optimizer's state in the dtype in which it was saved.",
            evidence={
                "bits": bits[tensors].astype(np.int64),
                "bits_before": then[tensors].astype(np.int64),
            },
            first_step=view.step,
            key="narrowed",
        )


def _narrow(view: View, bits: FloatArray) -> Iterable[Claim]:
    with np.errstate(invalid="ignore"):
        tensors = np.flatnonzero((bits <= 16) & (view.tensors.float_bits == 32))
    if len(tensors):
        yield Claim(
            tensors=tensors,
            message="the optimizer's moments of {fqn} have {bits} bits, its weights 32.",
            advice="Keep second moments in float32, unless the optimizer rounds stochastically.",
            evidence={"bits": bits[tensors].astype(np.int64)},
            severity=Severity.INFO,
            first_step=view.step,
            key="narrow",
        )
