"""
The detector non-finite: NaN or infinity in the training state.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, BoolArray, Claim, Detector, IntArray
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class NonFinite(Detector):
    """
    Detects:
        A parameter or persistent buffer with elements that are NaN or infinite. Frozen parameters and buffers that had
        the same number of them from the first look on (masks of -inf) are passed over.

    Why it matters:
        A NaN never heals and spreads: through the forward pass, momentum and the average over ranks. It may sit
        unnoticed in rows that no batch has used so far while the loss stays finite.

    Known causes:
        Adam's eps of 1e-8 is zero in float16, so that elements without a gradient get 0/0
        (https://github.com/afiaka87/glide-finetune/issues/5); a learning rate that is too high; sqrt or log at zero;
        an overflow in 16 bits.

    Fix:
        Go back to the last clean checkpoint. Raise eps or use bfloat16 or float32 for the parameter, lower the learning
        rate, and clip gradients. Subjects are in registration order where they broke in one step.

    Misses:
        Large tensors are read whole only now and then, so that one bad element may be found some steps later. Gradients
        that are not finite are no finding: a gradient scaler skips such steps by design.
    """

    name = "non-finite"
    family = "numbers"
    severity = Severity.CRITICAL
    summary = "A parameter or buffer holds NaN or infinity."
    reads = ("nonfinite",)
    alert = Alert(summary="A parameter or buffer holds NaN or infinity")

    def look(self, view: View) -> Iterable[Claim]:
        with np.errstate(invalid="ignore"):
            bad = view.now("nonfinite") > 0
        if not bad.any():
            return
        table = view.tensors
        bad &= table.is_param | table.persistent
        suspects = np.flatnonzero(bad)
        suspects = suspects[~_by_design(view, suspects)]
        if not len(suspects):
            return
        values, seen = look_back(view, "nonfinite", _WINDOW, suspects)
        stretch = stretch_of(values > 0, seen, view.window_steps(_WINDOW))
        # First wrong first: what broke together stays in registration order.
        order = np.argsort(stretch.first_step, kind="stable")
        tensors = suspects[order]
        yield Claim(
            tensors=tensors,
            message="{fqn} holds {nonfinite:.0f} NaN or infinite elements of {numel}, first seen at step {bad_step}.",
            advice="Go back to a checkpoint made before that step; look at eps, learning rate and 16-bit overflow.",
            evidence={
                "nonfinite": view.now("nonfinite")[tensors],
                "numel": table.numel[tensors],
                "dtype": [table.dtype[index] for index in tensors.tolist()],
                "bad_step": stretch.first_step[order],
            },
            first_step=stretch.first_step[order],
            last_good_step=stretch.last_good_step[order],
        )


def _by_design(view: View, suspects: IntArray) -> BoolArray:
    """Not trained, and the same count at every look that is remembered."""
    values, seen = look_back(view, "nonfinite", _WINDOW, suspects)
    now = view.now("nonfinite")[suspects]
    constant: BoolArray = np.all(~seen | (values == now), axis=0)
    masks = ~view.tensors.trainable[suspects] & (now < view.tensors.numel[suspects])
    by_design: BoolArray = constant & masks & _seen_at_the_start(view, suspects)
    return by_design


def _seen_at_the_start(view: View, suspects: IntArray) -> BoolArray:
    """Looked at by the third judged step, or so long ago that the window holds nothing else."""
    if view.step - view.base_step > _WINDOW:
        return np.ones(len(suspects), np.bool_)
    _, seen = look_back(view, "nonfinite", _WINDOW, suspects)
    early: BoolArray = np.any(seen[:3], axis=0)
    return early
