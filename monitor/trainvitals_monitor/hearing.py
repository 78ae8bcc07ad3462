"""
When the ranks of a run in memory were heard of last, by the monitor's own clock: those of trainers' machines may differ.

Nothing is judged by it, for it depends on when frames came; metrics, alerts and pages say it.
"""

from __future__ import annotations

import time

from trainvitals_monitor.history import AttemptHistory

REPORTING_S = 60.0
"""A rank is reporting if it was heard of within this time of the rank that was heard of last."""


class Hearing:
    """
    `last`: when any rank was heard of, in Unix seconds; after a restart of the monitor, as the agents said it.

    The run's lock is held by who calls.
    """

    def __init__(self) -> None:
        self.last = time.time()
        self._since = time.monotonic()
        self._heard: dict[tuple[str, int], float] = {}

    def hear(self, attempt: str, rank: int) -> None:
        """A frame of this rank came, be it for the second time."""
        self.last = time.time()
        self._heard[attempt, rank] = time.monotonic()

    def num_reporting(self, attempt: AttemptHistory | None) -> int:
        """Ranks of the attempt that were heard of lately, or have said that they are done."""
        if attempt is None:
            return 0
        heard = {
            number: self._heard.get((attempt.key, number), self._since) for number in attempt.ranks
        }
        since = max(heard.values(), default=0.0) - REPORTING_S
        return sum(
            rank.phase == "closed" or heard[number] >= since
            for number, rank in attempt.ranks.items()
        )
