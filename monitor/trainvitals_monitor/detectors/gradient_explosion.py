"""
The detector gradient-explosion: gradients that have grown a thousandfold and stay so.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, FloatArray, Threshold
from trainvitals_monitor.detectors.gradient_norms import gradient_norms, norm_now
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_PAST = 16


class GradientExplosion(Detector):
    """
    Detects:
        The norm of all gradients together is, at several looks in a row, at least a thousand times its own median at the
        looks before, above all of those, and does not come down. Never above info: weights that follow are
        norm-explosion's and non-finite's.

    Why it matters:
        With clipping, such gradients steer each step by the one batch or layer that explodes; without it, or beyond the
        range of their dtype, the weights are next.

    Known causes:
        A filter or momentum on gradients that amplifies them from step to step
        (https://github.com/ironjr/grokfast/issues/9); exponentials in each of many layers
        (https://github.com/pkuxmq/Invertible-Image-Rescaling/issues/24); a learning rate far too high
        (https://github.com/chauncygu/Multi-Agent-Constrained-Policy-Optimisation/issues/5); a loss scale that is never
        taken out.

    Fix:
        Find the layer whose gradients grew first, bound what it computes, lower the learning rate, and clip.

    Misses:
        Gradients that are clipped in place before the step show the bound, and none of the growth. Models whose gradients
        are not all looked at in one step (large ones under a budget); growth by less than a quarter from look to look.
    """

    name = "gradient-explosion"
    family = "gradients"
    severity = Severity.INFO
    summary = "Gradients have grown a thousandfold and stay so."
    reads = ("grad_norm", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Gradients have exploded")
    thresholds = (
        Threshold(
            name="growth",
            default=1000.0,
            unit="ratio to the median norm of all gradients at the looks before",
            reason="batches and phases of training differ by tens, and a dynamic loss scale doubles now and then",
        ),
        Threshold(
            name="looks",
            default=4,
            unit="looks in a row",
            reason="one batch, and what momentum makes of it, is over by then",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        now = norm_now(view)
        if not 0 < now < np.inf:
            return
        looks, growth = int(self.value("looks")), self.value("growth")
        # The cheap question first: growth leaves the middle of its past as far behind as the median.
        values, _ = view.window("grad_norm", _WINDOW)
        if len(values) < looks + _PAST or now < np.sqrt(growth) * _size(values[len(values) // 2]):
            return
        looked = gradient_norms(view, looks + _PAST, _WINDOW, at_most=_WINDOW)
        if looked is None:
            return
        past, recent = looked.total[:-looks], looked.total[-looks:]
        median = float(np.median(past))
        exploded = median > 0 and recent.min() >= growth * median and recent.min() > past.max()
        if not exploded or recent[-1] < recent[0]:
            return
        own = np.median(looked.norms[:-looks], axis=0)
        grown = looked.norms[-1] >= growth * own
        tensors, norms = looked.tensors[grown], looked.norms[:, grown]
        count = len(tensors)
        yield Claim(
            tensors=tensors,
            message="the norm of all gradients is {norm:.3g} after a median of {median:.3g}, and has not come down for "
            "{looks} looks.",
            advice="Look at the layers whose own gradients grew most; lower the learning rate, and clip.",
            evidence={
                "norm": np.full(max(count, 1), recent[-1]),
                "median": np.full(max(count, 1), median),
                "looks": np.full(max(count, 1), looks),
                "own_norm": norms[-1] if count else recent[-1:],
                "own_median": own[grown] if count else np.array([median]),
            },
            first_step=int(looked.steps[-looks]),
            last_good_step=int(looked.steps[-looks - 1]),
        )


def _size(norms: FloatArray) -> float:
    """The norm of these together, what was not looked at left out."""
    return float(np.sqrt(np.nansum(norms**2)))
