"""
What the monitor counts about itself, for metrics/.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("pause", "decode", "judge", "store")
ERROR_STAGES = ("judge", "store", "worker", "read-back")


@dataclass
class Counters:
    """Totals since the start. Each field is written by one thread only; a reader may be one behind."""

    accepted: int = 0
    duplicates: int = 0
    accepted_bytes: int = 0
    commits: int = 0
    lag_s: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    notifications: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the body to the stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started
