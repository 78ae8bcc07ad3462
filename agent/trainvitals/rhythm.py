"""
When a rank's frames are due: once an interval, each rank at an instant of its own, so that a thousand don't come at once.

Ranks attach together and end their steps together. Were a frame due so long after the one before, or when facts come, all
of them would be sent at the same moment for the rest of the training.

Making and sending a frame takes some milliseconds, whatever is in it. Where steps are short that is most of what a
budget has: then only every second or third instant is taken, and each frame holds more.
"""

from __future__ import annotations

import math
import zlib

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, lie evenly in 0..1 however many there are (Knuth, TAOCP 3, 6.4, theorem S)."""
PART = 0.2
"""Of the budget, for sending: the rest is for looking."""
MOST = 8
"""Instants from one frame to the next, whatever it costs: findings should not be long in coming."""
_MEMORY = 0.25
"""How much the last frame counts in what one costs: a stall, or a tensor table, says little about the next."""


def share_of(attempt: str, rank: int) -> float:
    """Where in the interval this rank's instant lies, in (0, 1]: evenly over the ranks, elsewhere for another attempt."""
    return 1.0 - (zlib.crc32(attempt.encode()) / 2**32 + rank * _GOLDEN) % 1.0


class Rhythm:
    """
    Instants at `share`, 1 + `share`, ... intervals after the beginning. Times are time.monotonic()'s, in seconds.

    What was recorded waits for the next one: an interval at most, half of one on average; with a `budget` (a share of the
    trainer's time), up to MOST of them.
    """

    def __init__(self, interval_s: float, share: float = 1.0, budget: float | None = None) -> None:
        self._interval_s = interval_s
        self._share = share
        self._budget = budget
        self._begun_at = 0.0
        self._cost_s = 0.0
        self._every = 1

    def begin(self, now: float) -> None:
        """From now on; the beginning itself is no instant."""
        self._begun_at = now

    def took(self, cpu_seconds: float) -> None:
        """What making and sending a frame has taken."""
        if self._budget:
            self._cost_s += (_MEMORY if self._cost_s else 1.0) * (cpu_seconds - self._cost_s)
            needed = math.ceil(self._cost_s / (PART * self._budget * self._interval_s))
            self._every = min(max(1, needed), MOST)

    def has_come(self, since: float, now: float) -> bool:
        """Whether there were instants enough after `since` and up to now."""
        return self._passed(now) - self._passed(since) >= self._every

    def _passed(self, at: float) -> int:
        return math.floor((at - self._begun_at) / self._interval_s - self._share) + 1
