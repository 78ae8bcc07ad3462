"""
Whose digests several ranks compare: those of the same tensors at the same steps, whatever each rank's budget buys.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainvitals.rests import RANK_STEPS
from trainvitals.slots import SlotTable

DIGEST_STEPS = 16
"""Steps between two digests under a budget; without a limit some are made at every step."""
DIGEST_TENSORS = 64
"""Tensors that are digested at a time, beside the watched ones."""


class Rotation:
    """Tensors by name, so many at a time: which turn it is follows from the step alone, and so all ranks know."""

    def __init__(self) -> None:
        self._by_name: Sequence[int] = ()
        self._watched: Sequence[int] = ()

    def open(self, slots: SlotTable, watched: Sequence[int]) -> None:
        """Who takes turns; those that are `watched` have one every time."""
        self._by_name = sorted(range(len(slots)), key=slots.fqn)
        self._watched = watched

    def every_step(self, step: int) -> list[int]:
        """Whom to digest when every step is looked at."""
        return self._turn(step)

    def now_and_then(self, step: int) -> list[int]:
        """Whom to digest at this step, if it is one at which digests are made and looks are taken at all."""
        if step % DIGEST_STEPS:
            return []
        # The steps at which no rank rests may be the only ones: these alone bring every tensor in its turn.
        return self._turn(step // (RANK_STEPS if step % RANK_STEPS == 0 else DIGEST_STEPS))

    def _turn(self, turn: int) -> list[int]:
        count = len(self._by_name)
        start = turn * DIGEST_TENSORS
        chosen = {self._by_name[(start + k) % count] for k in range(min(DIGEST_TENSORS, count))}
        return sorted({*self._watched, *chosen})
