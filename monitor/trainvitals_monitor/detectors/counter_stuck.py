"""
The detector counter-stuck: a counter of the model that has reached the last number its type can count to.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.contract import MANTISSA_BITS
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, FloatArray, Threshold
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 256


class CounterStuck(Detector):
    """
    Detects:
        A buffer of a floating type that counted up in whole numbers and has then stood for 16 looks at the number from
        which on adding 1 gives the same number again: 256 in bfloat16, 2,048 in float16, 2^24 in float32.

    Why it matters:
        A count of steps, tokens or batches that no longer counts stops what depends on it: a warm-up, a bias
        correction, the balancing of experts.

    Known causes:
        A cast of the whole model takes counters along (https://github.com/NVIDIA/Megatron-LM/issues/7081), or a counter
        is made in the default dtype (https://github.com/pytorch/ao/pull/4915).

    Fix:
        Keep counters as integers or Python numbers, or exempt them from the cast.

    Misses:
        Counters that go up by more than 1 go on beyond this number with wrong sums, and counters that are no buffers
        are not seen. One that begins at this number, as after a resume, is not known to be a counter.
    """

    name = "counter-stuck"
    family = "movement"
    severity = Severity.WARNING
    summary = "A counter stands at the last number that its type can count to."
    reads = ("high", "TensorInfo")
    alert = Alert(hold="5m", summary="A counter of the model no longer counts")
    thresholds = (
        Threshold(
            name="looks",
            default=16,
            unit="looks",
            reason="a counter that counts is there for one look, or for the few microbatches that pass it by",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        last = view.cached("counter-stuck", lambda: _last_counts(view))
        suspects = np.flatnonzero(view.now("high") == last)
        if not len(suspects):
            return
        values, seen = look_back(view, "high", _WINDOW, suspects)
        steps = view.window_steps(_WINDOW)
        stands = seen & (values == last[suspects])
        began = stands.argmax(axis=0)
        rows = np.arange(len(steps))[:, None]
        stood = (stands | ~seen | (rows < began)).all(axis=0)
        stuck = stood & (stands.sum(axis=0) >= self.threshold("looks", view)[suspects])
        stuck &= np.array([_counted(values[: began[k], k]) for k in range(len(suspects))], np.bool_)
        if not stuck.any():
            return
        tensors = suspects[stuck]
        yield Claim(
            tensors=tensors,
            message="{fqn} counted up to {reached:.0f} and has stood there for {looks} looks: {dtype} can count no further.",
            advice="Keep the counter as an integer, or exempt it from the cast of the model.",
            evidence={
                "reached": last[tensors],
                "looks": stands.sum(axis=0)[stuck],
                "dtype": [view.tensors.dtype[index] for index in tensors.tolist()],
            },
            first_step=steps[began[stuck]],
            last_good_step=steps[np.maximum(began[stuck] - 1, 0)],
        )


def _last_counts(view: View) -> FloatArray:
    """Per buffer of a floating type, the number after which 1 is lost; NaN for all others."""
    table = view.tensors
    counts = [
        2.0 ** (MANTISSA_BITS[dtype] + 1) if dtype in MANTISSA_BITS else np.nan
        for dtype in table.dtype
    ]
    found: FloatArray = np.where(table.is_param, np.nan, np.array(counts, np.float64))
    return found


def _counted(before: FloatArray) -> bool:
    """Whether these are whole numbers that went up by 1 a look, or seldom stood."""
    known = before[np.isfinite(before)]
    rises = np.diff(known)
    return bool(
        len(rises) >= 8
        and (known == np.round(known)).all()
        and ((rises == 0) | (rises == 1)).all()
        and (rises == 1).mean() >= 0.5
    )
