"""
What the agent takes of the trainer's process, in seconds: the other side of its budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, thread_time

STALL = 2.0
"""
Work counts as the time that it took, but at most as so many times its CPU time: where others have the processor, a look
takes long without doing more. (Time that is shared evenly stretches the trainer's steps as much as ours, and counts.)
"""


class _Entry(threading.local):
    """When this thread came in; None while it is outside."""

    began: float | None = None


@dataclass
class Work:
    """A part of an entry; `part` of its time counts, known when it is over."""

    part: float = 1.0


class Meter:
    """
    Seconds between entry and exit, on whichever threads the trainer calls us; what is entered within an entry counts
    once. `own_threads()` gives the CPU seconds of ours so far: those run beside the trainer, which does not wait for
    them. Half a microsecond an entry. (Two threads that leave at the same moment may lose one's seconds: it is a
    measure, not a ledger.)
    """

    def __init__(self, own_threads: Callable[[], float] = lambda: 0.0) -> None:
        self.own_threads = own_threads
        self._entry = _Entry()
        self._seconds = 0.0
        self._told = 0.0

    def enter(self) -> bool:
        """Whether this is the outermost entry, which has to `leave`."""
        entry = self._entry
        if entry.began is not None:
            return False
        entry.began = perf_counter()
        return True

    def leave(self) -> None:
        """Back to the trainer."""
        entry = self._entry
        if entry.began is not None:
            self._seconds += perf_counter() - entry.began
            entry.began = None

    def add(self, seconds: float) -> None:
        """What was measured elsewhere."""
        self._seconds += seconds

    @contextmanager
    def work(self, waits: bool) -> Iterator[Work]:
        """
        Something within an entry that takes so long that its CPU time is worth being asked for, 1 us: a stall is not ours.
        `waits`: for a device, which the trainer waits for as well.
        """
        work = Work()
        began, began_cpu = perf_counter(), thread_time()
        try:
            yield work
        finally:
            seconds, counts = perf_counter() - began, STALL * (thread_time() - began_cpu)
            if not waits and counts < seconds:
                work.part = counts / seconds
                self._seconds -= seconds - counts

    def taken(self) -> float:
        """All seconds since this was last asked, those of the entry that asks included."""
        entry = self._entry
        if entry.began is not None:
            now = perf_counter()
            self._seconds += now - entry.began
            entry.began = now
        total = self._seconds + self.own_threads()
        taken, self._told = total - self._told, total
        return taken
