"""
Series grow old: their thinner tiers are written behind them, and steps that are older than what is kept are deleted.

That is done tile by tile, some in each transaction, from what is in the store: nothing is held in memory, and a restart
goes on with the chunk that was written last, which gives the same again.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainvitals_monitor.stored_chunks import by_layout
from trainvitals_monitor.tiers import FACTOR, TIERS, kind_of, span, thin_tile
from trainvitals_monitor.unpacking import unpack_tiles
from trainvitals_monitor.writing import Writing

_PARTS = 16
"""A chunk of all tiles is written in so many transactions, in fewer when chunks are ready sooner."""


@dataclass
class Thinning:
    """
    Of one attempt's series of one kind, one tier: where its next chunk begins, and which tile comes next.

    `keep_steps`: steps of the tier before that are not deleted; None: all.
    """

    attempt_id: int
    kind: str
    every: int
    keep_steps: int | None
    tile: int = 0
    start: int | None = None
    _asked: int = -1

    def go_on(self, writing: Writing, through: int, num_tiles: int) -> None:
        """Write what is due now that the tier before is complete below step `through`; within a transaction."""
        if self.start is None and through != self._asked:
            self.start, self._asked = self._where(writing), through
        if self.start is None or through < self.start + span(self.every):
            return
        ready = (through - self.start) // span(self.every)
        for _ in range(ready * -(-num_tiles // _PARTS)):
            if through < self.start + span(self.every):
                break
            self._thin(writing, self.start)
            self.tile += 1
            if self.tile >= num_tiles:
                self.tile, self.start = 0, self.start + span(self.every)

    def _where(self, writing: Writing) -> int | None:
        """The chunk that was written last, or the first one there is anything for."""
        written = writing.first_steps(self.attempt_id, kind_of(self.kind, self.every))
        if written is not None:
            return written[1]
        before = writing.first_steps(self.attempt_id, self._before)
        return None if before is None else before[0] - before[0] % span(self.every)

    def _thin(self, writing: Writing, start: int) -> None:
        end = start + span(self.every)
        rows = writing.chunks(self.attempt_id, self._before, self.tile, start, end - 1)
        parts = [tile for layout, alike in by_layout(rows) for tile in unpack_tiles(layout, alike)]
        chunk = thin_tile(parts, start, self.every) if parts else None
        if chunk is not None:
            kind = kind_of(self.kind, self.every)
            writing.put_chunk(self.attempt_id, kind, chunk, self.tile)
        if self.keep_steps is not None:
            # Whole stretches, so that each step is in this tier or in the one before.
            old = end - self.keep_steps * self.every // FACTOR
            old -= old % span(self.every)
            writing.drop_chunks(self.attempt_id, self._before, self.tile, min(old, start))

    @property
    def _before(self) -> str:
        return kind_of(self.kind, self.every // FACTOR)


class AttemptThinning:
    """All tiers of one attempt: of its tensors, and of its scalars."""

    def __init__(self, attempt_id: int, keep_steps: int | None) -> None:
        self._tiers = {
            kind: [Thinning(attempt_id, kind, every, keep_steps) for every in TIERS[1:]]
            for kind in ("tensor", "scalar")
        }

    def go_on(self, writing: Writing, through: int, num_tiles: dict[str, int]) -> None:
        """
        Write what is due now that steps below `through` rest in chunks; within a transaction.

        Cost: most often nothing; where a chunk has become due 2 ms for every 128 tensors, in each of 16 transactions.
        """
        for kind, tiers in self._tiers.items():
            complete = through
            for tier in tiers:
                tier.go_on(writing, complete, num_tiles[kind])
                complete = tier.start if tier.start is not None else -1
