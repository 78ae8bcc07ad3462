"""
How often a trainer's saves and loads are read closely, where it makes very many of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

SHARE = 0.05
"""Of the time that goes by, once the free ones are used up."""


class Pace:
    """
    Says whether the next one is due: the first `free` always; later ones if reading takes under 5 % of the time and
    `pause_s` has gone by (each is an event with all its keys on the wire).

    A checkpoint a minute is always read; a target network that is loaded at every step of 2 ms is not. Use it as a
    context manager around the work that counts.
    """

    def __init__(
        self, free: int, pause_s: float = 1.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._free = free
        self._pause_s = pause_s
        self._clock = clock
        self._spent = 0.0
        self._due_at = 0.0
        self._entered_at = 0.0

    def is_due(self) -> bool:
        """Whether to read this one; counts as one if so."""
        now = self._clock()
        if self._free > 0:
            self._free -= 1
        elif now < self._due_at:
            return False
        self._spent = 0.0
        return True

    def __enter__(self) -> Pace:
        self._entered_at = self._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        now = self._clock()
        self._spent += now - self._entered_at
        self._due_at = now + max(self._spent / SHARE, self._pause_s)
