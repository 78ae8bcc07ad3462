"""
How a parameter group's learning rate began, where it is, and whether it has come back up: what a restart should go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_RATES = 4
"""Learning rates of an attempt's first steps that are remembered one by one."""


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
        self._fallen: set[int] = set()
        self._revivals: dict[int, int] = {}

    def tell(self, groups: Iterable[int], rates: Iterable[float], step: int) -> None:
        """The rates of some groups from this step on."""
        for group, rate in zip(groups, rates, strict=True):
            first = self._first.setdefault(group, {})
            if step - min(first, default=step) < FIRST_RATES:
                first[step] = rate
            last = self._last.get(group, rate)
            if rate < last:
                self._fallen.add(group)
            elif rate > last and group in self._fallen:
                self._fallen.discard(group)
                self._revivals[group] = self._revivals.get(group, 0) + 1
            self._last[group] = rate

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
