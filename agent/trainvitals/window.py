"""
What the last two hundred steps took, and what of the share is left in them.

Accounts and rests keep the share on average: what was dear is paid off afterwards. That it holds over any so many steps
is seen to here, before a look is taken. So it goes by what a look is expected to cost.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

WINDOW_STEPS = 200
"""The promise: over any so many steps the share holds."""


class Window:
    """The last WINDOW_STEPS steps, oldest first: the time that counts of each, and what we took. On the trainer's thread."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._steps: deque[tuple[float, float]] = deque()
        self._seconds = self._ours = 0.0

    def passed(self, seconds: float, ours: float) -> None:
        """One more step. 0.5 us."""
        self._steps.append((seconds, ours))
        self._seconds += seconds
        self._ours += ours
        if len(self._steps) > WINDOW_STEPS:
            seconds, ours = self._steps.popleft()
            self._seconds -= seconds
            self._ours -= ours

    def clear(self) -> None:
        """What was free is no part of it."""
        self._steps.clear()
        self._seconds = self._ours = 0.0

    def left(self, usual: float) -> float:
        """What the next step may take, in seconds, if it is a usual one; so are those that have not been yet."""
        missing = WINDOW_STEPS - len(self._steps)
        seconds, ours = (0.0, 0.0) if missing else self._steps[0]
        count = missing or 1
        return self._share * (self._seconds - seconds + count * usual) - (self._ours - ours)

    def wait(self, needed: float, usual: float, most: int) -> int:
        """For so many steps, `most` at most, less is left than is needed, if they are usual ones in which we take nothing."""
        left = self.left(usual)
        if left >= needed:
            return 0
        missing = WINDOW_STEPS - len(self._steps)
        after = missing or 1
        for seconds, ours in islice(self._steps, 0 if missing else 1, None):
            left += ours - self._share * (seconds - usual)
            if left >= needed or after >= most:
                break
            after += 1
        return min(after, most)
