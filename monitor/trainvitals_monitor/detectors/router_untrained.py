"""
The detector router-untrained: a router whose gradient is nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Iterable

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
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class RouterUntrained(Detector):
    """
    Detects:
        A router's weight that an optimizer trains, and whose gradient has been a millionth of the other matrices', element
        by element, or zero, at every look since the attempt began.

    Why it matters:
        The loss does not reach the router: tokens are sent by its random first weights for ever, and the experts learn
        whatever they happen to be given.

    Known causes:
        Weights of the chosen experts that are divided by their sum, with one expert a token: that is 1, whatever the router
        says (https://github.com/jingyaogong/minimind/issues/858,
        https://github.com/davidmrau/mixture-of-experts/issues/27); scores that are detached, or only used to choose.

    Fix:
        Multiply the experts' outputs by the router's own probability where one expert is chosen; normalise among two and
        more only.

    Misses:
        Parameters of 16 bits, in which rounding is no millionth. Gates that are not named as routers are, or
        that lead to one expert only. A router that is fixed on purpose and not frozen is reported.
    """

    name = "router-untrained"
    family = "moe"
    severity = Severity.WARNING
    summary = "A router gets no gradient but rounding."
    reads = ("grad_norm", "grad_missing", "OptimizersSeen", "lr")
    alert = Alert(hold="5m", summary="A router is not trained")
    thresholds = (
        Threshold(
            name="ratio",
            default=1e-6,
            unit="of the median gradient of other matrices, root mean square",
            reason="some ulps of float32, where a gradient's terms cancel; trained routers are at 1e-3 to 10",
        ),
        Threshold(
            name="looks",
            default=12,
            unit="looks",
            reason="a router may be left alone while its experts warm up for a few steps",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        table = view.tensors
        routers = view.cached(self.name, lambda: _routers(view))
        if not routers.any():
            return
        with np.errstate(invalid="ignore"):
            routers = routers & (view.now("grad_norm") >= 0) & (view.lr > 0)
        if not routers.any() or view.step - view.base_step > _WINDOW:
            return
        others = np.flatnonzero(
            table.is_param & view.held & ~table.mask(Role.ROUTER) & _is_matrix(view)
        )
        tensors = np.flatnonzero(routers)
        own, seen = look_back(view, "grad_norm", _WINDOW, tensors)
        all_, _ = look_back(view, "grad_norm", _WINDOW, others)
        usual = _median(all_ / np.sqrt(table.numel[others]))[:, None]
        with np.errstate(invalid="ignore"):
            none = (
                own / np.sqrt(table.numel[tensors]) < self.threshold("ratio", view)[tensors] * usual
            )
        looks = seen.sum(axis=0)
        never = (looks >= self.threshold("looks", view)[tensors]) & (none | ~seen).all(axis=0)
        if never.any():
            yield Claim(
                tensors=tensors[never],
                message="{fqn} is trained, but its gradient was {grad_norm:.1e} or less at all {looks} looks, rounding beside "
                "that of other matrices: the loss does not reach this router.",
                advice="Weigh an expert's output by the router's own probability; do not divide a single one by itself.",
                evidence={"grad_norm": np.nanmax(own[:, never], axis=0), "looks": looks[never]},
                first_step=view.base_step + 1,
            )


def _routers(view: View) -> BoolArray:
    table = view.tensors
    routers = table.mask(Role.ROUTER) & table.is_param & table.trainable & view.held
    # A router to a single expert says 1 to everything: a model with one expert is a baseline, and no fault.
    routers &= (table.float_bits == 32) & _is_matrix(view)
    return routers & np.array([min(shape[:2], default=0) > 1 for shape in table.shape], np.bool_)


def _is_matrix(view: View) -> BoolArray:
    return view.cached(
        "router-untrained: matrices",
        lambda: np.array([len(shape) >= 2 for shape in view.tensors.shape], np.bool_),
    )


def _median(values: FloatArray) -> FloatArray:
    """Of each row, of what is known in it and not zero; NaN where nothing is."""
    return np.array([np.median(row[row > 0]) if (row > 0).any() else np.nan for row in values])
