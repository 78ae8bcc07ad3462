"""
The detector resume-discontinuity: training that goes on, and a part of its state that does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.adapters import adapters_of
from trainvitals_monitor.detectors.averages_lost import averages_lost
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    Threshold,
)
from trainvitals_monitor.detectors.journey import Journey, has_gone, journey, weights_go_on
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_MIN_ELEMENTS = 4
_RATES = 2
"""Steps on end: on its way to another peak, a warm-up passes one of the rates that the run began with."""
_EVEN = (0.85, 1.2)
"""Squared growth over the squared sum of its steps: a sum or a count goes straight on, an average seldom does."""


class ResumeDiscontinuity(Detector):
    """
    Detects:
        An attempt whose weights go on from where the one before was, while some tensors begin where the run once began,
        or somewhere else altogether: running statistics, codebooks and other buffers, and parameters whose optimizer
        state goes on. Or where an average that had been apart from its model, and was saved, is a copy of it again. Or
        whose learning rate is back at the schedule's first values. Or in which the frozen weight under an adapter is
        another one, while the adapter goes on: it was merged, and is applied once more.

    Why it matters:
        Each restart forgets what took thousands of steps to estimate, or trains a grown model as if it were new. Loss
        and evaluation are worse for a while, and nobody knows why.

    Known causes:
        Buffers registered with persistent=False (https://github.com/david-knigge/ccnn/issues/14) or only parameters
        saved or copied back (https://github.com/torch/nn/issues/1165); an average that is made, from the model, after it
        was loaded (https://github.com/m2lines/Samudra/issues/313); a scheduler that is not in the checkpoint
        (https://github.com/lightly-ai/lightly-train/pull/301,
        https://github.com/vllm-project/speculators/pull/900); a checkpoint saved while its adapters were merged
        (https://github.com/Baijiong-Lin/LoRA-Torch/issues/10).

    Fix:
        Save and load the whole state_dict of model, optimizer and scheduler; register as persistent what is not
        computed anew from the configuration.

    Misses:
        Roll-backs, in which all has gone back together. Sums and counters in non-persistent buffers (metrics are reset
        by design) and parameters that begin anew along with their optimizer state (a new head) are info. Averages that
        forget within few steps have caught up before anybody looks. A learning rate is only judged if it did not come
        back up before, differs by half, and in two steps on end is what the run began with: a new warm-up to another
        peak is meant.
    """

    name = "resume-discontinuity"
    family = "checkpoint"
    severity = Severity.WARNING
    summary = "A resumed run lost a part of its state: buffers, parameters or its learning rate."
    reads = ("digests", "CheckpointSeen", "manifest", "update_norm", "optimizer_step", "lr")
    alert = Alert(summary="A resumed run lost a part of its state")
    thresholds = (
        Threshold(
            name="goes_on",
            default=0.25,
            unit="squared distance over the squared way since the run began",
            reason="the steps around a restart are a small part of the way, else nothing can be said",
        ),
        Threshold(
            name="steps_on",
            default=6.0,
            unit="usual updates of a step",
            reason="a step or two before anybody looks, and a few that a crash has lost; more is a roll-back",
        ),
        Threshold(
            name="went_back",
            default=0.4,
            unit="squared distance over the squared way since the run began",
            reason="an average with momentum 0.1 is at 0.66 of its way two steps after a reset",
        ),
        Threshold(
            name="unrelated",
            default=0.5,
            unit="squared distance over the sum of both squared norms",
            reason="two random tensors are at 1; eight signed sums scatter the estimate by half",
        ),
        Threshold(
            name="back_at_model",
            default=0.05,
            unit="squared distance of an average from its model, as a ratio of that before",
            reason="what a resume changes by is a step or two; an average over ten steps and more is ten steps apart",
        ),
        Threshold(
            name="steps_away",
            default=7.0,
            unit="usual updates of a step",
            reason="beyond `steps_on`; a scratch buffer or a cache is written anew at each step, and far away after each",
        ),
        Threshold(
            name="rate_jump",
            default=1.5,
            unit="ratio of learning rates",
            reason="no schedule moves so far in a step while it decays, and a schedule that begins again moves more",
        ),
        Threshold(
            name="base_moved",
            default=0.01,
            unit="distance over the weight's norm",
            reason="another dtype rounds by 0.002 and less; an adapter that has learnt something is of some percent",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        begun = view.step - view.base_step
        if view.is_late or view.previous is None or begun not in (1, _RATES):
            return
        found = journey(view)
        if found is None or not weights_go_on(
            view, found, self.value("goes_on"), self.value("steps_on")
        ):
            return
        if begun == _RATES:
            yield from self._rates(view)
        else:
            yield from self._tensors(view, found)
            yield from self._bases(view, found)

    def _tensors(self, view: View, found: Journey) -> Iterable[Claim]:
        table = view.tensors
        back, elsewhere = self._went_back(view, found), self._is_elsewhere(view, found)
        judged = (table.float_bits < 64) & (table.numel >= _MIN_ELEMENTS)
        counters = view.latest("optimizer_step")
        continues = np.isfinite(counters) & (counters > 2)
        meant = np.where(table.is_param, ~continues & view.held, _is_sum(view, found))
        copied = averages_lost(view, found, self.value("back_at_model"))
        copied &= self._is_far(view, found)
        for mask, what in (
            (back & ~copied & judged, "has gone back to where the run began with it"),
            (elsewhere & ~back & ~copied & judged, "begins with values unrelated to those before"),
            (copied, "has lost its average and is a copy of its model again"),
        ):
            for severity, chosen in ((None, mask & ~meant), (Severity.INFO, mask & meant)):
                if chosen.any():
                    yield _claim(view, found, chosen, what, severity)

    def _bases(self, view: View, found: Journey) -> Iterable[Claim]:
        """Whoever merges for good begins a new adapter, of which B is zero."""
        adapters, here = adapters_of(view), view.first_digests()
        if here is None or not len(adapters.a):
            return
        known = adapters.base >= 0
        base, b = adapters.base[known], adapters.b[known]
        goes_on = found.known[b] & (here["square_sum"][b] > 0) & ~self._is_elsewhere(view, found)[b]
        frozen = found.known[base] & ~view.tensors.trainable[base] & ~view.held[base]
        size = found.size[base] / 2
        moved = found.from_end[base] > self.threshold("base_moved", view)[base] ** 2 * size
        chosen = np.zeros(view.num_tensors, np.bool_)
        chosen[base[goes_on & frozen & moved & (size > 0)]] = True
        if chosen.any():
            what = "is another one than before, under an adapter that goes on"
            yield _claim(view, found, chosen, what, None)

    def _went_back(self, view: View, found: Journey) -> BoolArray:
        gone: BoolArray = has_gone(found) & self._is_far(view, found)
        share = self.threshold("went_back", view)
        near: BoolArray = found.from_origin <= self.value("goes_on") * found.way
        return gone & near & (found.from_end >= share * found.way)

    def _is_elsewhere(self, view: View, found: Journey) -> BoolArray:
        """A constant that is drawn at random each time is; so is what was initialised with other random numbers."""
        away = found.known & (found.from_end > self.threshold("unrelated", view) * found.size)
        away &= found.size > 0
        away &= view.tensors.numel >= 4 * _MIN_ELEMENTS
        return away & self._is_far(view, found)

    def _is_far(self, view: View, found: Journey) -> BoolArray:
        """Beyond what its usual updates would explain in a few steps; False where these are not known."""
        with np.errstate(invalid="ignore"):
            far: BoolArray = found.from_end > self.threshold("steps_away", view) ** 2 * found.pace
        return far

    def _rates(self, view: View) -> Iterable[Claim]:
        previous, lr = view.previous, view.lr
        counters = view.latest("optimizer_step")
        fresh = np.isfinite(counters) & (counters <= view.step - view.base_step + 1)
        if previous is None or fresh.any():
            return
        jump, chosen, now = self.value("rate_jump"), [], view.schedules()
        for index in np.flatnonzero(np.isfinite(lr)).tolist():
            schedule = previous.schedules.get(view.tensors.fqn[index])
            if schedule is None or schedule.revivals:
                continue
            begun = now[index].first[:_RATES]
            far = max(*begun, schedule.last) > jump * min(*begun, schedule.last)
            if far and _begins_again(begun, schedule.first, view.base_step - previous.origin_step):
                chosen.append(index)
        if chosen:
            tensors = np.array(chosen, np.int64)
            before = np.array(
                [previous.schedules[view.tensors.fqn[index]].last for index in chosen]
            )
            yield Claim(
                tensors=tensors,
                message="the learning rate of {fqn} is {lr:.3g} again, as when the run began, after {lr_before:.3g} before "
                "the restart: the schedule was not restored.",
                advice="Save the scheduler's state_dict in the checkpoint and load it after the optimizer's.",
                evidence={"lr": lr[tensors], "lr_before": before},
                first_step=view.base_step + 1,
                last_good_step=view.base_step,
                key="rates",
            )


def _begins_again(begun: Sequence[float], first: Sequence[float], done: int) -> bool:
    """
    Whether an attempt's first rates are among the run's, one after the other; not its very first ones where the agent came
    a step late.

    `done`: steps of the run that came before. Where these are so few that the run's first rates are those to go on with,
    nothing begins again.
    """
    alike = [
        k
        for k in range(len(first) - _RATES + 1)
        if np.allclose(begun, first[k : k + _RATES], rtol=1e-6, atol=0)
    ]
    return bool(alike) and (done <= 0 or done not in alike)


def _is_sum(view: View, found: Journey) -> BoolArray:
    """Buffers that are not to be kept, and have added up the same at each step: metrics, counts."""
    table = view.tensors
    with np.errstate(invalid="ignore", divide="ignore"):
        straight = found.growth / (found.pace * np.maximum(found.steps, 1) ** 2)
        even = (straight > _EVEN[0]) & (straight < _EVEN[1])
    keeps = table.persistent | table.mask(Role.EXPERT_BIAS, Role.RUNNING_STATISTIC)
    sums: BoolArray = even | table.mask(Role.EXPERT_COUNTER)
    return ~table.is_param & ~keeps & sums


def _claim(
    view: View, found: Journey, chosen: BoolArray, what: str, severity: Severity | None
) -> Claim:
    tensors = np.flatnonzero(chosen)
    count = len(tensors)
    return Claim(
        tensors=tensors,
        message=f"the weights go on from the attempt before, but {{fqn}} {what} ({{tensors}} in all{{kept}}).",
        advice="Save and load the whole state_dict; register a buffer as persistent unless it can be computed anew.",
        evidence={
            "tensors": np.full(count, count),
            "kept": np.where(view.tensors.persistent[tensors], "", ", not in the state_dict"),
            "distance": np.sqrt(found.from_end[tensors]),
            "way": np.sqrt(found.way[tensors]),
            "usual_update": np.sqrt(np.nan_to_num(found.pace[tensors])),
        },
        first_step=view.step,
        last_good_step=view.base_step,
        severity=severity,
        key=what,
    )
