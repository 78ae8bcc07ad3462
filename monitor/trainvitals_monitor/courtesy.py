"""
Who asks goes first: between two frames the worker waits for questions that are being answered, for a moment at most.

A read gives up the interpreter's lock some dozen times (each row of the store, each chunk that it inflates), and next to
a worker that computes it waits for it as often: an answer that takes 2 ms took 6. Without the worker beside it it takes
2, which the worker would have spent waiting for the lock as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PAUSE_S = 0.005
"""Of one frame at most, so that no number of readers keeps frames out: over 100 a second are judged all the same."""


class Courtesy:
    """Counts who asks. Any thread."""

    def __init__(self) -> None:
        self._asking = 0
        self._changed = threading.Condition()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a question is answered."""
        with self._changed:
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                if not self._asking:
                    self._changed.notify_all()

    def pause(self) -> None:
        """Wait until nobody asks, but no longer than PAUSE_S; the worker's, with no lock held. Nearly free if nobody does."""
        if self._asking:
            with self._changed:
                self._changed.wait_for(lambda: not self._asking, PAUSE_S)
