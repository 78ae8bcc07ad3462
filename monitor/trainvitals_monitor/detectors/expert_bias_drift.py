"""
The detector expert-bias-drift: a load-balancing bias that only ever moves one way.
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
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.experts import past, used_share
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_RECOVERY = 1.02
"""A load that has become more even by this much during the looks is being balanced."""


class ExpertBiasDrift(Detector):
    """
    Detects:
        An expert bias whose elements all move the same way and by the same amount at every look, as the smallest, the
        largest and the sum of all say; or whose spread is above the range of sigmoid scores and still widens at
        every look (the bias no longer balances); or that grows for the experts with many tokens and shrinks for those with
        few, look after look, while the load is uneven and gets no more even (the sign is wrong).

    Why it matters:
        The bias exists to move tokens from busy experts to idle ones. Pushed all alike it does nothing but grow, until
        its steps are lost in rounding; run away, it decides the routing in place of the router.

    Known causes:
        Token counts that are zeroed before the update reads them, or not summed over ranks; a sign that is wrong way
        round (https://github.com/NVIDIA/Megatron-LM/issues/7081); a bias that is not applied where experts are chosen.

    Fix:
        Check that the counts are this step's, of all ranks, and not zero when the bias is updated; subtract the mean of
        the update.

    Misses:
        Early on a bias moves by the update rate at every step, which is healthy; 64 looks are needed, and 24 for a wrong
        sign. A bias that is added to raw logits may be wide by right: raise `spread` for it. A wrong sign is only seen
        where the load is: a token counter that is not zeroed before the step, or experts that get no gradient.
    """

    name = "expert-bias-drift"
    family = "moe"
    severity = Severity.WARNING
    summary = "An expert bias drifts one way without end."
    reads = ("low", "high", "total", "follows", "effective_experts", "fed")
    alert = Alert(hold="5m", summary="An expert bias drifts one way without end")
    thresholds = (
        Threshold(
            name="looks",
            default=64,
            unit="looks",
            reason="a healthy bias turns around once its expert's load has; 64 steps of 0.001 are far beyond that",
        ),
        Threshold(
            name="spread",
            default=1.0,
            unit="difference of largest and smallest element",
            reason="sigmoid scores span 1: beyond it the bias alone decides",
        ),
        Threshold(
            name="follow_looks",
            default=24,
            unit="looks",
            reason="of a bias that moves against the load, not one look in ten correlates with it",
        ),
        Threshold(
            name="follows",
            default=0.3,
            unit="correlation of the bias's move with the load, mean",
            reason="a bias that balances has -0.7 to -1",
        ),
        Threshold(
            name="uneven",
            default=0.9,
            unit="effective experts over all experts",
            reason="a bias that is subtracted moves with the load by right, and keeps it more even than this",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        suspects = view.cached(
            "expert-bias", lambda: np.flatnonzero(view.tensors.mask(Role.EXPERT_BIAS))
        )
        for tensor in suspects[view.seen("follows")[suspects]].tolist():
            yield from self._follows_load(view, tensor)
        length = int(self.value("looks"))
        if not len(suspects) or view.step - view.base_step < length:
            return
        suspects = suspects[self._drifts_now(view, suspects)]
        if not len(suspects):
            return
        low, _ = look_back(view, "low", length, suspects)
        high, _ = look_back(view, "high", length, suspects)
        total, _ = look_back(view, "total", length, suspects)
        if len(low) < length:
            return
        together = _together(low, high, total / view.tensors.numel[suspects])
        wide = self._running_apart(view, low, high, suspects)
        evidence = (view, suspects, low, high)
        yield from _claim(*evidence, together, "all experts' elements of {fqn} moved alike")
        yield from _claim(*evidence, wide & ~together, "the elements of {fqn} ran apart")

    def _follows_load(self, view: View, tensor: int) -> Iterable[Claim]:
        """Whether it feeds the experts that have most."""
        looks = int(self.value("follow_looks"))
        steps, follows = past(view, "follows", tensor, looks)
        if len(steps) < looks or follows.mean() < self.value("follows"):
            return
        used = used_share(view, tensor, looks)
        third = len(used) // 3
        if (follows > 0).mean() < 0.9 or not third or used[-third:].mean() > self.value("uneven"):
            return
        if used[-third:].mean() > _RECOVERY * used[:third].mean():
            return
        yield Claim(
            tensors=np.array([tensor]),
            message="{fqn} grows for the experts that have most tokens (correlation {follows:.2f} over {looks} looks), "
            "and only {used:.0%} of the experts are in effect used.",
            advice="Turn the sign of the update: the bias of an expert with more tokens than the mean must fall.",
            evidence={
                "follows": np.array([follows.mean()]),
                "looks": np.array([looks]),
                "used": used[-third:].mean(keepdims=True),
            },
            first_step=int(steps[0]),
            key="sign",
        )

    def _drifts_now(self, view: View, suspects: IntArray) -> BoolArray:
        """Whether the last two looks alone allow a drift: cheap, and False for nearly all."""
        low = view.window("low", 2)[0][:, suspects]
        high = view.window("high", 2)[0][:, suspects]
        total = view.window("total", 2)[0][:, suspects]
        together = _together(low, high, total / view.tensors.numel[suspects])
        return together | self._running_apart(view, low, high, suspects)

    def _running_apart(
        self, view: View, low: FloatArray, high: FloatArray, suspects: IntArray
    ) -> BoolArray:
        spread = high - low
        wide = spread[-1] > self.threshold("spread", view)[suspects]
        with np.errstate(invalid="ignore"):
            widening: BoolArray = wide & (np.diff(spread, axis=0) > 0).all(axis=0)
        return widening


def _together(low: FloatArray, high: FloatArray, mean: FloatArray) -> BoolArray:
    """
    Both ends and the mean of all moved by the same amount at every look, and never back.

    Both ends alone may do so for long in a bias that balances well, while others turn around between them.
    """
    moves = np.stack([np.diff(low, axis=0), np.diff(high, axis=0), np.diff(mean, axis=0)])
    with np.errstate(invalid="ignore"):
        same = np.ptp(moves, axis=0) <= 1e-2 * np.abs(moves).max(axis=0)
        one_way = (moves > 0).all(axis=(0, 1)) | (moves < 0).all(axis=(0, 1))
        together: BoolArray = same.all(axis=0) & one_way
    return together


def _claim(
    view: View,
    suspects: IntArray,
    low: FloatArray,
    high: FloatArray,
    chosen: BoolArray,
    what: str,
) -> Iterable[Claim]:
    if not chosen.any():
        return
    steps = view.window_steps(len(low))
    yield Claim(
        tensors=suspects[chosen],
        message=what
        + " at every look since step {from_step}, and lie between {low:.3g} and {high:.3g} now.",
        advice="Check that the token counts are this step's and of all ranks when the bias is updated from them.",
        evidence={
            "from_step": np.full(int(chosen.sum()), steps[0]),
            "low": low[-1, chosen],
            "high": high[-1, chosen],
            "low_before": low[0, chosen],
            "high_before": high[0, chosen],
        },
        first_step=int(steps[0]),
    )
