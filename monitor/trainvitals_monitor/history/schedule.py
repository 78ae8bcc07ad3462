"""
How a parameter group's learning rate began, where it is, and whether it has come back up: what a restart should go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FIRST_RATES = 4
"""Learning rates of an attempt's first steps that are remembered one by one."""

MAX_HALVINGS = 64
MIRROR = 8
"""So many changes on each side of a lowest rate are compared."""


class Descent(NamedTuple):
    """
    How far a learning rate has come down: the steps since which it has been at or below the half, the quarter, ... of its
    peak, and how often it was lower than before since it last rose.
    """

    halved: tuple[int, ...] = ()
    falls: int = 0


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


class Schedules:
    """The schedules of one rank's groups, as their rates are told: when they change, and now and then."""

    def __init__(self) -> None:
        self._first: dict[int, dict[int, float]] = {}
        self._last: dict[int, float] = {}
        self._told: dict[int, int] = {}
        self._changed: dict[int, int] = {}
        self._rises: dict[int, Rise] = {}
        self._fallen: set[int] = set()
        self._revivals: dict[int, int] = {}
        self._peak: dict[int, float] = {}
        self._descents: dict[int, Descent] = {}
        self._changes: dict[int, deque[tuple[int, float]]] = {}
        self._mirrored: dict[int, Mirror] = {}

    def tell(self, groups: Iterable[int], rates: Iterable[float], step: int) -> None:
        """The rates of some groups from this step on."""
        for group, rate in zip(groups, rates, strict=True):
            first = self._first.setdefault(group, {})
            if step - min(first, default=step) < FIRST_RATES:
                first[step] = rate
            last = self._last.get(group, rate)
            self._rise(group, rate, last, step)
            if rate < last:
                self._fallen.add(group)
            elif rate > last and group in self._fallen:
                self._fallen.discard(group)
                self._revivals[group] = self._revivals.get(group, 0) + 1
            self._descend(group, rate, last, step)
            self._mirror(group, rate, step)
            self._last[group] = rate

    def _rise(self, group: int, rate: float, last: float, step: int) -> None:
        changes = self._changed.get(group, 0)
        if rate > last:
            told, peak = self._told[group], self._peak[group]
            revivals = self._revivals.get(group, 0)
            self._rises[group] = Rise(step, told, last, peak, changes, revivals)
        self._changed[group] = changes + (rate != last)
        self._told[group] = step

    def rise(self, group: int) -> Rise | None:
        """The last time that the group's rate rose; None if it never did."""
        return self._rises.get(group)

    def _descend(self, group: int, rate: float, last: float, step: int) -> None:
        peak = self._peak[group] = max(rate, self._peak.get(group, rate))
        halved, falls = self.descent(group)
        count = _halvings(peak, rate)
        new = (step,) * (count - len(halved))
        falls = 0 if rate > last else falls + (rate < last)
        self._descents[group] = Descent((*halved[:count], *new), falls)

    def _mirror(self, group: int, rate: float, step: int) -> None:
        changes = self._changes.setdefault(group, deque(maxlen=2 * MIRROR + 1))
        if changes and changes[-1][1] == rate:
            return
        changes.append((step, rate))
        if len(changes) < 2 * MIRROR + 1 or group in self._mirrored:
            return
        if _is_mirror([told for _, told in changes], self._peak[group]):
            self._mirrored[group] = Mirror(changes[MIRROR + 1][0], changes[MIRROR][1])

    def mirrored(self, group: int) -> Mirror | None:
        """Where the group's rate came up as it came down; None: it never did."""
        return self._mirrored.get(group)

    def descent(self, group: int) -> Descent:
        """How far the group's rate is below its peak."""
        return self._descents.get(group, Descent())

    def of(self, group: int) -> Schedule | None:
        """What is remembered of a group; None if nothing was told."""
        told = self._first.get(group)
        if not told:
            return None
        begin = min(told)
        first = [told[max(step for step in told if step <= begin + k)] for k in range(FIRST_RATES)]
        return Schedule(
            first=tuple(first),
            last=self._last[group],
            revivals=self._revivals.get(group, 0),
        )


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
