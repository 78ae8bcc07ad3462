"""
The detector average-stuck: a teacher, an average or a target network that is written to and does not follow.
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
from trainvitals_monitor.detectors.teachers import Teachers, teachers_of
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_LOADS_WINDOW = 256


class AverageStuck(Detector):
    """
    Detects:
        Parameters that no optimizer holds, beside held ones of the same names and shapes that move: loaded several
        times while those moved, and not changed by any of the loads; or of 16 bits and averaged, where most elements
        do not change at the looks at which their module is written to, while most of the others' do, and that moves less than
        they do.

    Why it matters:
        The target network or the averaged model stays at (or near) its first weights: what is bootstrapped from it, or
        shipped, is not what was trained.

    Known causes:
        `target.load_state_dict(target.state_dict())` (https://github.com/higgsfield-ai/higgsfield/issues/14,
        https://github.com/AgileRL/AgileRL/issues/464); an average kept in bfloat16, where a step of a thousandth of
        the difference is below half an ulp (https://github.com/d8ahazard/sd_dreambooth_extension/issues/1415).

    Fix:
        Load from the online network; keep averages in float32.

    Misses:
        A teacher that is never written to: it may be frozen by design, or averaged later. Averages outside the attached
        models, or under names that are not their student's.
    """

    name = "average-stuck"
    family = "movement"
    severity = Severity.WARNING
    summary = "An averaged model or a target network is written to and does not follow."
    reads = ("changed", "looked", "update_norm", "OptimizersSeen", "CheckpointSeen")
    alert = Alert(hold="5m", summary="An averaged model or a target network does not follow")
    thresholds = (
        Threshold(
            name="loads",
            default=3,
            unit="loads, a move of the source before and a look after each",
            reason="once may be a teacher that is loaded late, twice one that is loaded again",
        ),
        Threshold(
            name="looks",
            default=16,
            unit="looks at which the average was written to",
            reason="at first an average and its source hardly differ",
        ),
        Threshold(
            name="share",
            default=0.2,
            unit="ratio of elements that change, of the source's",
            reason="an average of 16 bits that keeps up changes half of them or more",
        ),
        Threshold(
            name="step",
            default=0.5,
            unit="ratio of the steps' sizes to the source's",
            reason="a copy that is rounded anew at each step changes few elements too, but each by an ulp: it moves as "
            "far as its source, or farther",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        # Every fourth step is enough: nothing here is of one step.
        if view.step % 4 or view.is_late:
            return
        teachers = teachers_of(view)
        if not len(teachers.mine):
            return
        if len(view.checkpoints("load")) >= self.value("loads"):
            yield from self._loaded(view, teachers)
        if (view.tensors.float_bits[teachers.mine] == 16).any():
            yield from self._rounded(view, teachers)

    def _loaded(self, view: View, teachers: Teachers) -> Iterable[Claim]:
        """No load has changed it, a look after each shows, and its source has moved before each."""
        mine, its = teachers.mine, teachers.its
        changed, seen = look_back(view, "changed", _LOADS_WINDOW, mine)
        moved, _ = look_back(view, "changed", _LOADS_WINDOW, its)
        steps = view.window_steps(_LOADS_WINDOW)
        with np.errstate(invalid="ignore"):
            still = ~(changed > 0).any(axis=0) & seen.any(axis=0)
        count = np.zeros(len(mine), np.int64)
        first = np.full(len(mine), -1, np.int64)
        last = np.full(len(mine), view.base_step, np.int64)
        for load in view.checkpoints("load"):
            if load.failed or load.step < steps[0]:
                continue
            held = np.isin(mine, load.tensors)
            held &= (seen & (steps > load.step)[:, None]).any(axis=0)
            between = (steps[:, None] > last) & (steps[:, None] <= load.step)
            with np.errstate(invalid="ignore"):
                held &= ((moved > 0) & between).any(axis=0)
            first = np.where(held & (first < 0), load.step, first)
            last = np.where(held, load.step, last)
            count += held
        stuck = still & (count >= self.value("loads")) & (first >= 0)
        if stuck.any():
            yield Claim(
                tensors=mine[stuck],
                message="{fqn} was loaded {loads} times while {other} moved, and not one of the loads changed it: it is "
                "loaded from itself, or from a copy that stands still.",
                advice="Load it from the network that is trained.",
                evidence={
                    "loads": count[stuck],
                    "other": [view.tensors.fqn[index] for index in its[stuck]],
                },
                first_step=first[stuck],
                last_good_step=view.base_step,
            )

    def _rounded(self, view: View, teachers: Teachers) -> Iterable[Claim]:
        low = view.tensors.float_bits[teachers.mine] == 16
        mine, its, root = teachers.mine[low], teachers.its[low], teachers.root[low]
        share = _shares(view, mine)
        other = _shares(view, its)
        for number in np.unique(root).tolist():
            own = np.flatnonzero(root == number)
            with np.errstate(invalid="ignore"):
                written: BoolArray = np.asarray((share[:, own] > 0).any(axis=1))
            if written.sum() < self.value("looks"):
                continue
            weight = view.tensors.numel[mine[own]].astype(np.float64)
            average = _pooled(share[np.ix_(written, own)], weight)
            source = _pooled(other[np.ix_(written, own)], weight)
            if source < 0.5 or average >= self.value("share") * source:
                continue
            if _moved(view, mine[own], written) >= self.value("step") * _moved(
                view, its[own], written
            ):
                continue
            yield Claim(
                tensors=mine[own],
                message="{fqn} is {dtype} and averaged, but only {percent:.1f} % of its model's elements change when it "
                "is written to, of {source_percent:.0f} % in its source: the steps are below half an ulp.",
                advice="Keep the average in float32.",
                evidence={
                    "dtype": [view.tensors.dtype[index] for index in mine[own].tolist()],
                    "percent": [100 * average],
                    "source_percent": [100 * source],
                    "other": [view.tensors.fqn[index] for index in its[own].tolist()],
                },
                first_step=int(view.window_steps(_WINDOW)[written.argmax()]),
            )


def _shares(view: View, tensors: IntArray) -> FloatArray:
    """The share of elements that changed, by look [k, n]; NaN where there was none."""
    changed, seen = look_back(view, "changed", _WINDOW, tensors)
    looked, _ = look_back(view, "looked", _WINDOW, tensors)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: FloatArray = np.where(seen & (looked > 0), changed / looked, np.nan)
    return share


def _moved(view: View, tensors: IntArray, looks: BoolArray) -> float:
    """How far these tensors moved at these looks, step by step."""
    steps, _ = look_back(view, "update_norm", _WINDOW, tensors)
    return float(np.sqrt(np.nansum(steps[looks] ** 2)))


def _pooled(share: FloatArray, weight: FloatArray) -> float:
    known = ~np.isnan(share)
    total = float((known * weight).sum())
    return float((np.nan_to_num(share) * weight).sum()) / max(total, 1.0)
