"""
Who asks goes first: between the stages of a frame the worker waits for questions that are being answered, for a moment at most.

A read gives up the interpreter's lock some dozen times (each row of the store, each chunk that it inflates), and next to
a worker that computes it waits for it as often: an answer that takes 2 ms took 6. Without the worker beside it it takes
2, which the worker would have spent waiting for the lock as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PAUSE_S = 0.005
"""Before one stage at most: longer than most answers take."""
SHARE = 0.5
"""Of the worker's time at most, so that no number of readers keeps frames out."""


class Courtesy:
    """Counts who asks. Any thread."""

    def __init__(self) -> None:
        self._asking = 0
        self._changed = threading.Condition()
        self._credit_s = 0.0
        self._since = time.monotonic()

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
        """
        Wait until nobody asks, but no longer than PAUSE_S, nor than the worker's SHARE allows.

        The worker's, before each stage of a frame, with no lock held. A microsecond if nobody asks.
        """
        now = time.monotonic()
        earned = SHARE / (1 - SHARE) * (now - self._since)
        self._credit_s = min(PAUSE_S, self._credit_s + earned)
        if self._asking:
            with self._changed:
                self._changed.wait_for(lambda: not self._asking, self._credit_s)
            self._credit_s -= time.monotonic() - now
        self._since = time.monotonic()
