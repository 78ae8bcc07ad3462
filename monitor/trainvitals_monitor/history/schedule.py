"""
How a parameter group's learning rate began, where it is, and whether it has come back up: what a restart should go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

FIRST_RATES = 4
"""Learning rates of an attempt's first steps that are remembered one by one."""

MAX_HALVINGS = 64
MIRROR = 8
"""So many changes on each side of a lowest rate are compared."""


class Descent(NamedTuple):
    """
    How far a learning rate has come down: the steps since which it has been at or below the half, the quarter, ... of its
    peak; how often it was lower than before since it last rose, and how often of these in the very step after another
    change.
    """

    halved: tuple[int, ...] = ()
    falls: int = 0
    falls_at_once: int = 0


class Rise(NamedTuple):
    """
    The last time that a learning rate rose: the step, that at which it was told before, the rate then and the largest one
    up to then; how often it had changed and how often come up again after a fall, this time not counted.
    """

    step: int
    told: int
    before: float
    peak: float
    changes: int
    revivals: int


class Mirror(NamedTuple):
    """The step since which a rate comes up as it came down, along the bottom of a cosine, and the rate at that bottom."""

    step: int
    lowest: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """
    The learning rate of a tensor's parameter group over an attempt: in its first steps, one by one (of the run's first
    attempt, where there was one), in its last, and how often it has risen after it had fallen.
    """

    first: tuple[float, ...]
    last: float
    revivals: int = 0

    def begun_by(self, older: Schedule | None) -> Schedule:
        """This, going on from that of the attempt before."""
        if older is None:
            return self
        return Schedule(first=older.first, last=self.last, revivals=self.revivals + older.revivals)


class Course:
    """Where one group's rate has been: told when it changes, and now and then."""

    def __init__(self) -> None:
        self.first: dict[int, float] = {}
        self.last = self.peak = math.nan
        self.told = -1
        self.num_changes = 0
        self.has_fallen = False
        self.revivals = 0
        self.rise: Rise | None = None
        self.descent = Descent()
        self.mirror: Mirror | None = None
        self._changes: deque[tuple[int, float]] = deque(maxlen=2 * MIRROR + 1)

    def tell(self, rate: float, step: int) -> None:
        """The rate from this step on."""
        if self.told < 0:
            self.last = self.peak = rate
        if step - min(self.first, default=step) < FIRST_RATES:
            self.first[step] = rate
        rises, falls = rate > self.last, rate < self.last
        if rises:
            self.rise = Rise(step, self.told, self.last, self.peak, self.num_changes, self.revivals)
        self.num_changes += rate != self.last
        self.told = step
        self.revivals += rises and self.has_fallen
        self.has_fallen = falls or (self.has_fallen and not rises)
        self._descend(rate, step)
        self._reflect(rate, step)
        self.last = rate

    def _descend(self, rate: float, step: int) -> None:
        self.peak = max(rate, self.peak)
        halved, falls, at_once = self.descent
        count = _halvings(self.peak, rate)
        new = (step,) * (count - len(halved))
        if rate > self.last:
            falls = at_once = 0
        elif rate < self.last:
            falls, at_once = falls + 1, at_once + (step == self._changes[-1][0] + 1)
        self.descent = Descent((*halved[:count], *new), falls, at_once)

    def _reflect(self, rate: float, step: int) -> None:
        changes = self._changes
        if changes and changes[-1][1] == rate:
            return
        changes.append((step, rate))
        if len(changes) < 2 * MIRROR + 1 or self.mirror is not None:
            return
        if _is_mirror([told for _, told in changes], self.peak):
            self.mirror = Mirror(changes[MIRROR + 1][0], changes[MIRROR][1])

    @property
    def schedule(self) -> Schedule:
        """What the next attempt is told of it."""
        begin = min(self.first)
        first = [
            self.first[max(step for step in self.first if step <= begin + k)]
            for k in range(FIRST_RATES)
        ]
        return Schedule(first=tuple(first), last=self.last, revivals=self.revivals)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            **vars(self),
            "first": [*self.first.items()],
            "_changes": [*self._changes],
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Course:
        """The inverse of `as_json`."""
        course = cls()
        vars(course).update(said)
        course.first = dict(said["first"])
        course.rise = None if said["rise"] is None else Rise(*said["rise"])
        halved, *falls = said["descent"]
        course.descent = Descent(tuple(halved), *falls)
        course.mirror = None if said["mirror"] is None else Mirror(*said["mirror"])
        course._changes = deque(((step, rate) for step, rate in said["_changes"]), 2 * MIRROR + 1)
        return course


def _halvings(peak: float, rate: float) -> int:
    if not 0 < peak < math.inf:
        return 0
    if not rate > 0:
        return MAX_HALVINGS
    return min(MAX_HALVINGS, math.floor(math.log2(peak) - math.log2(rate)))


def _is_mirror(rates: Sequence[float], peak: float) -> bool:
    """
    Whether these rates come down to a tenth of the peak or less and up again the same way, flat at the bottom: a cosine
    beyond its end does, restarts jump, and triangles have a corner there.
    """
    low = rates[MIRROR]
    down = [rate - low for rate in reversed(rates[:MIRROR])]
    up = [rate - low for rate in rates[MIRROR + 1 :]]
    if not (0 <= low <= 0.1 * peak < math.inf) or not up[0] > 0:
        return False
    even = all(abs(a - b) <= 0.02 * b for a, b in zip(down, up, strict=True))
    # A parabola is 4 times as high at twice the distance, a cosine of 32 steps and more 3.4 times.
    return even and 3.3 < up[MIRROR - 1] / up[MIRROR // 2 - 1] < 4.1
