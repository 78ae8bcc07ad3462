"""
The detector moments-permuted: an optimizer whose state was handed to the wrong parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from trainvitals.facts import MOMENT_SKETCHES
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Previous, View

_WHOLE = 4096  # elements: larger tensors are cut in places that depend on their names
_FEW = 8  # elements: less are no fingerprint


class MomentsPermuted(Detector):
    """
    Detects:
        In an attempt's first steps, moments of two or more parameters that are unlike their own of the attempt before,
        and like those of other parameters of the same shape, each of which has a foreign one too. Or one second moment
        that is many times larger than its own was and like another's, which has fallen as no decay explains.

    Why it matters:
        Adam divides each step by the wrong parameter's second moment. Nothing fails, for the shapes fit: some layers
        get steps that are many times too long, others hardly any, until the moments have been forgotten.

    Known causes:
        An optimizer's state dict numbers its parameters by their order. When the groups are built in another order
        after a restart (from a set, from another traversal of the modules, after layers were unfrozen), load_state_dict
        gives each its neighbour's state (https://github.com/pytorch/pytorch/issues/1489).

    Fix:
        Build the groups in one fixed order (named_parameters), or save and load optimizer state by name
        (torch.distributed.checkpoint.state_dict.get_optimizer_state_dict).

    Misses:
        Parameters of more than 4,096 elements, those whose moments had not been looked at in the last steps before the
        restart, and optimizers that forget within few steps (momentum without a second moment, many steps after the
        save). Parameters whose moments are alike to begin with.
    """

    name = "moments-permuted"
    family = "optimizer"
    severity = Severity.CRITICAL
    summary = "After a resume, parameters have each other's optimizer state."
    reads = ("second_moment", "first_moment", "moment_sketch_0")
    alert = Alert(summary="After a resume, parameters have each other's optimizer state")
    thresholds = (
        Threshold(
            name="apart",
            default=0.03,
            unit="squared distance over the sum of both squared norms",
            reason="a second moment changes by a few percent in the steps around a restart, by less than 0.003 in "
            "this measure; those of two parameters are at 0.05 to 1",
        ),
        Threshold(
            name="closer",
            default=20.0,
            unit="ratio of squared distances",
            reason="the other parameter's moment must be nearer than the own one beyond what four signed sums scatter",
        ),
        Threshold(
            name="grew",
            default=10.0,
            unit="ratio of norms",
            reason="such a moment hides in its new place what would show whose was put where it came from",
        ),
        Threshold(
            name="fell",
            default=0.5,
            unit="ratio of norms",
            reason="a second moment loses 0.1 to 5 percent in a step at most, whatever the gradients are",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        previous = view.previous
        if previous is None or view.is_late or view.step > view.base_step + 2:
            return
        now, then = _now(view), _then(view, previous)
        counters = view.latest("optimizer_step")
        before = _values(view, previous, "optimizer_step")
        with np.errstate(invalid="ignore"):
            goes_on, not_back = ~(counters < 0.5 * before), counters >= before
        fits = (view.tensors.numel <= _WHOLE) & (view.tensors.numel >= _FEW) & goes_on
        usable = np.flatnonzero(fits & (now.size > 0) & (then.size > 0))
        taken: dict[int, int] = {}
        for same in _alike(view, previous, usable):
            taken.update(self._swapped(view, same, now, then))
        if len(taken) < 2:
            taken = self._left_behind(view, previous, now, then, not_back)
        if taken:
            yield _claim(view, taken, now, then)

    def _swapped(self, view: View, same: IntArray, now: _Moments, then: _Moments) -> dict[int, int]:
        """Tensor -> the one whose moments it has; only whole cycles."""
        distance = _distances(now, then, same)
        own = np.diagonal(distance).copy()
        limit = self.threshold("apart", view)[same]
        others = distance.copy()
        np.fill_diagonal(others, np.inf)
        nearest = others.argmin(axis=1)
        rows = np.arange(len(same))
        far = (own > limit) & (others[rows, nearest] * self.value("closer") < own)
        chosen = dict(zip(rows[far].tolist(), nearest[far].tolist(), strict=True))
        while True:
            whole = {
                row: source
                for row, source in chosen.items()
                if source in chosen and row in chosen.values()
            }
            if len(whole) == len(chosen):
                break
            chosen = whole
        if len(set(chosen.values())) != len(chosen):
            return {}
        return {int(same[row]): int(same[source]) for row, source in chosen.items()}

    def _left_behind(
        self, view: View, previous: Previous, now: _Moments, then: _Moments, goes_on: BoolArray
    ) -> dict[int, int]:
        """
        Tensor -> the one whose second moment it has and that has lost it, while the counters went on.

        A small moment in a place of large gradients is like nobody's after a step; so no cycle may show.
        """
        with np.errstate(invalid="ignore"):
            second = (view.latest("second_moment") > 0) & (
                _values(view, previous, "second_moment") > 0
            )
        fits = (view.tensors.numel <= _WHOLE) & (view.tensors.numel >= _FEW) & second & goes_on
        grew = now.size > self.threshold("grew", view) * then.size
        fell = now.size < self.threshold("fell", view) * then.size
        taken: dict[int, int] = {}
        for same in _alike(view, previous, np.flatnonzero(fits)):
            distance = _distances(now, then, same)
            near = distance < self.threshold("apart", view)[same][:, None]
            near &= grew[same][:, None] & fell[same][None, :]
            for row in np.flatnonzero(near.sum(axis=1) == 1).tolist():
                taken[int(same[row])] = int(same[int(near[row].argmax())])
        return taken


class _Moments(NamedTuple):
    """Per tensor of the view: sketches [n, 4] and norm [n] of the second moment, or of the first."""

    sketch: FloatArray
    size: FloatArray


def _now(view: View) -> _Moments:
    sketch = np.stack([view.latest(name) for name in MOMENT_SKETCHES], axis=1)
    return _moments(sketch, view.latest("first_moment"), view.latest("second_moment"))


def _then(view: View, previous: Previous) -> _Moments:
    sketch = np.stack([_values(view, previous, name) for name in MOMENT_SKETCHES], axis=1)
    first = _values(view, previous, "first_moment")
    return _moments(sketch, first, _values(view, previous, "second_moment"))


def _moments(sketch: FloatArray, first: FloatArray, second: FloatArray) -> _Moments:
    size = np.where(second > 0, second, first)
    size = np.where(np.isfinite(size) & np.isfinite(sketch).all(axis=1), size, 0.0)
    return _Moments(np.nan_to_num(sketch), size)


def _values(view: View, previous: Previous, stat: str) -> FloatArray:
    values = previous.values.get(stat, {})
    return np.array([values.get(fqn, np.nan) for fqn in view.tensors.fqn], np.float64)


def _alike(view: View, previous: Previous, usable: IntArray) -> Iterator[IntArray]:
    """Groups of tensors of one shape, the same as before."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in usable.tolist():
        shape = view.tensors.shape[index]
        if previous.shapes.get(view.tensors.fqn[index]) == shape:
            groups.setdefault(shape, []).append(index)
    for members in groups.values():
        if len(members) >= 2:
            yield np.array(members, np.int64)


def _distances(now: _Moments, then: _Moments, same: IntArray) -> FloatArray:
    """[now, then]: the squared distance over the sum of both squared norms; sketches and norms both have a say."""
    new, old = now.sketch[same], then.sketch[same]
    sizes, before = now.size[same], then.size[same]
    apart = ((new[:, None, :] - old[None, :, :]) ** 2).mean(axis=2)
    apart = np.maximum(apart, (sizes[:, None] - before[None, :]) ** 2)
    distance: FloatArray = apart / (sizes[:, None] ** 2 + before[None, :] ** 2)
    return distance


def _claim(view: View, taken: dict[int, int], now: _Moments, then: _Moments) -> Claim:
    tensors = np.array(sorted(taken), np.int64)
    sources = np.array([taken[index] for index in tensors.tolist()], np.int64)
    return Claim(
        tensors=tensors,
        message="since the restart the optimizer uses for {fqn} the moments that belong to {source}, and so for {tensors} "
        "parameters.",
        advice="Build the parameter groups in the same order at each start, or load the optimizer's state by name.",
        evidence={
            "source": [view.tensors.fqn[index] for index in sources.tolist()],
            "tensors": np.full(len(tensors), len(tensors)),
            "moment": now.size[tensors],
            "own_moment_before": then.size[tensors],
            "source_moment_before": then.size[sources],
        },
        first_step=view.base_step + 1,
        last_good_step=view.base_step,
    )
