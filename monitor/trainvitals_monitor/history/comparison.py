"""
A run beside its reference, step by step: by how much they differ now, and by how much they ever did before.

Differences are relative: |a - b| / max(|a|, |b|). Norms are compared, which is a lower bound of the distance. Nothing is
judged here. Along the way of a step come the loss (of the values before it), the gradients, the updates, and the values
after it: of what differs, the first in this order is nearest to the cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainvitals.contract import MANTISSA_BITS
from trainvitals_monitor.history.reference import Reference, last_scalars, looked
from trainvitals_monitor.history.starts import Start, compare_starts, relative

if TYPE_CHECKING:
    from trainvitals_monitor.history.view import View

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STAGES = ("gradient", "update", "value")
_STAT = {"gradient": "grad_norm", "update": "update_norm", "value": "norm"}
_IDLE = 1e-4
"""A gradient so far below the model's is what rounding left of zero (a key's bias): Adam makes chance of it."""
_KEPT_LEVELS = 64
_LASTING = ("num_steps", "num_equal", "last_equal_step", "whole", "_last", "_attempt", "_taken")


@dataclass(frozen=True, kw_only=True)
class Differences:
    """
    One step beside the reference's.

    `now`: per stage the relative difference of each tensor, NaN where not compared; `values`, `expected`: what was
    compared. `loss`: names, relative difference, value and expected of the losses. `before`: the largest difference at
    any earlier step, of any stage (NaN: this is the first one); `gap`: steps since the last one compared. `start`: at
    the first step of an attempt. `counts`: per tensor, optimizer counters here minus there, NaN where unknown.
    """

    step: int
    index: IntArray
    now: dict[str, FloatArray]
    values: dict[str, FloatArray]
    expected: dict[str, FloatArray]
    losses: dict[str, tuple[float, float, float]]
    before: float
    gap: int
    start: Start | None

    @property
    def largest_loss(self) -> float:
        """The largest relative difference of a loss, NaN if none was compared."""
        return max((found[0] for found in self.losses.values()), default=float("nan"))


@dataclass
class Comparison:
    """
    The attempts of one run beside their reference. `num_equal`: steps at which nothing differed at all; `levels`: the
    typical log ratio of gradients, here over there, at the last steps compared.
    """

    reference: Reference
    latest: Differences | None = None
    start: Start | None = None
    num_steps: int = 0
    num_equal: int = 0
    last_equal_step: int = -1
    whole: bool = True
    """Whether it was compared from the run's first step on."""
    levels: list[tuple[int, float]] = field(default_factory=list)
    _largest: float = float("nan")
    _last: int = -1
    _attempt: str = ""
    _index: tuple[tuple[str, int, int], IntArray] | None = None
    _taken: dict[str, int] = field(default_factory=dict)
    _idle: set[str] = field(default_factory=set)
    _idle_now: BoolArray = field(default_factory=lambda: np.zeros(0, np.bool_))

    def take(self, view: View) -> None:
        """The step that the view is about was completed."""
        if view.is_late or view.step <= self._taken.get(view.attempt, -1):
            return
        self._taken[view.attempt] = view.step
        index = self._placed(view)
        start = self._start(view, index)
        if not self.reference.has(view.step):
            self.latest = None
            return
        if not self.num_steps and view.step > view.base_step + 1:
            self.whole = False
        self.latest = self._compare(view, index, start)
        self.num_steps += 1
        self._last = view.step
        self._remember(view, self.latest)

    def _placed(self, view: View) -> IntArray:
        key = (view.attempt, view.tensors.version, len(self.reference._index))
        if self._index is None or self._index[0] != key:
            self._index = (key, self.reference.index(view.tensors))
        return self._index[1]

    def _start(self, view: View, index: IntArray) -> Start | None:
        """The attempt's start beside that of the reference, at its first step."""
        if view.attempt == self._attempt:
            return None
        self._attempt = view.attempt
        own = view.first_digests()
        if own is None or view.first_digests_step != view.base_step:
            return None
        there = self.reference.start(view.base_step, index)
        if there is None:
            return None
        found = compare_starts(own, there)
        if self.start is None:
            self.start = found
        return found

    def _compare(self, view: View, index: IntArray, start: Start | None) -> Differences:
        own = {
            stat: looked(view, stat)
            for stat in ("norm", "exact", "update_norm", "since", "grad_norm")
        }
        values = {s: _or_nan(own[_STAT[s]], view.num_tensors) for s in STAGES}
        expected = {s: self.reference.stat(_STAT[s], view.step, index) for s in STAGES}
        floors = self._floors(view, values, expected)
        same = {
            "gradient": np.ones(view.num_tensors, np.bool_),
            "update": self._same(view, own["since"], "since", index),
            "value": self._same(view, own["exact"], "exact", index),
        }
        now = {}
        for stage in STAGES:
            difference = relative(values[stage], expected[stage], floors[stage])
            difference[~same[stage]] = np.nan
            difference[self._idle_now if stage == "gradient" else self._idle_mask(view)] = np.nan
            now[stage] = difference
        return Differences(
            step=view.step,
            index=index,
            now=now,
            values=values,
            expected=expected,
            losses=self._losses(view),
            before=self._largest,
            gap=view.step - self._last if self._last >= 0 else 1,
            start=start,
        )

    def _same(self, view: View, own: FloatArray | None, stat: str, index: IntArray) -> BoolArray:
        """Looks of one kind only are compared: norms of cores with those of cores, updates over as many steps."""
        there = self.reference.stat(stat, view.step, index)
        equal: BoolArray = _or_nan(own, view.num_tensors) == there
        return equal

    def _floors(
        self, view: View, values: dict[str, FloatArray], expected: dict[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """Below which a number is rounding rather than a measurement; learns whose gradients are nothing else."""
        numel = np.maximum(view.tensors.numel, 1).astype(np.float64)
        both = np.fmax(values["gradient"], expected["gradient"])
        known = np.isfinite(both) & (both > 0)
        typical = float(np.median(both[known] / np.sqrt(numel[known]))) if known.any() else 0.0
        gradient = 0.1 * typical * np.sqrt(numel)
        with np.errstate(invalid="ignore"):
            idle = known & (both < _IDLE * typical * np.sqrt(numel))
        self._idle_now = idle
        self._idle |= {view.tensors.fqn[i] for i in np.flatnonzero(idle).tolist()}
        ulp = np.exp2(-np.array([MANTISSA_BITS.get(d, 23) for d in view.tensors.dtype], np.float64))
        norm = np.fmax(values["value"], expected["value"])
        update = 8 * ulp * np.where(np.isfinite(norm), norm, 0.0)
        return {"gradient": gradient, "update": update, "value": np.zeros(len(numel))}

    def _idle_mask(self, view: View) -> BoolArray:
        if not self._idle:
            return np.zeros(view.num_tensors, np.bool_)
        return np.array([fqn in self._idle for fqn in view.tensors.fqn], np.bool_)

    def _losses(self, view: View) -> dict[str, tuple[float, float, float]]:
        """Losses that both have logged about this step; those of ranks differ with the number of ranks."""
        settings = self.reference.settings(view.step)
        if settings is None or settings.world_size != view.world_size:
            return {}
        there, own = self.reference.scalars(view.step), last_scalars(view)
        found = {}
        for name in own.keys() & there.keys():
            if "loss" in name.lower():
                one, other = (v if np.isfinite(v) else np.inf for v in (own[name], there[name]))
                difference = relative(np.array([one]), np.array([other]), np.zeros(1))[0]
                found[name] = (float(difference), own[name], there[name])
        return dict(sorted(found.items()))

    def _remember(self, view: View, found: Differences) -> None:
        columns = [*found.now.values()]
        worst = [float(np.nanmax(c)) for c in columns if not np.isnan(c).all()]
        if found.start is not None and not np.isnan(found.start.difference).all():
            worst.append(float(np.nanmax(found.start.difference)))
        if found.losses:
            worst.append(found.largest_loss)
        if worst:
            self._largest = max(worst) if np.isnan(self._largest) else max(self._largest, *worst)
            if max(worst) == 0:
                self.num_equal += 1
                self.last_equal_step = view.step
        one, other = found.values["gradient"], found.expected["gradient"]
        with np.errstate(all="ignore"):
            ratio = np.log(one / other)
        usable = np.isfinite(ratio) & ~self._idle_mask(view)
        if usable.any():
            self.levels.append((view.step, float(np.median(ratio[usable]))))
            del self.levels[:-_KEPT_LEVELS]

    def has_taken(self, attempt: str) -> bool:
        """Whether steps of this attempt were compared."""
        return attempt in self._taken

    # -- over a restart ----------------------------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """What later steps need of those before: to `restore` when these are not shown again."""
        return {
            **{name: getattr(self, name) for name in _LASTING},
            "levels": self.levels,
            "largest": None if np.isnan(self._largest) else str(self._largest),
            "idle": sorted(self._idle),
        }

    def restore(self, known: dict[str, Any]) -> None:
        """Go on from `as_json`; steps that were taken then are passed over."""
        for name in _LASTING:
            setattr(self, name, known[name])
        self.levels = [(int(step), float(level)) for step, level in known["levels"]]
        self._largest = float(known["largest"] or "nan")
        self._idle = set(known["idle"])

    @property
    def largest(self) -> float:
        """The largest difference so far, NaN if nothing was compared."""
        return self._largest


def _or_nan(column: FloatArray | None, size: int) -> FloatArray:
    return np.full(size, np.nan) if column is None else column
