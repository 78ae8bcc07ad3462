"""
The rows of one step, as they wait until it is judged.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainvitals_monitor.history.gathering import Gathering
from trainvitals_monitor.history.merge import Rows

if TYPE_CHECKING:
    from trainvitals_monitor.history.ranks import Ranks


class Pending:
    """Rows of one step as they came: by table and rank, in each rank's order."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, list[Rows]]] = {}
        self._scalar_names: dict[int, Sequence[str]] = {}
        self._gathering: Gathering | None = None
        self.num_rows = 0

    def add(self, rank: int, table: str, rows: Rows, scalar_names: Sequence[str]) -> None:
        """More rows of a rank; `scalar_names` is what its scalar indices mean."""
        self._rows.setdefault(table, {}).setdefault(rank, []).append(rows)
        self._scalar_names[rank] = scalar_names
        self.num_rows += len(rows["step"])
        if self._gathering is not None:
            self._gathering.forget(table, rank)

    def ranks(self, table: str) -> Collection[int]:
        """Who has rows of a table."""
        return self._rows.get(table, {}).keys()

    def of(self, table: str) -> dict[int, Rows]:
        """The rows of a table: one set of columns a rank, ordered by rank."""
        by_rank = self._rows.get(table, {})
        return {rank: _joined(by_rank[rank]) for rank in sorted(by_rank)}

    def of_ranks(self, table: str, ranks: range) -> dict[int, Rows]:
        """The same of these ranks only."""
        by_rank = self._rows.get(table, {})
        return {rank: _joined(by_rank[rank]) for rank in ranks if rank in by_rank}

    def names(self, rank: int) -> Sequence[str]:
        """What this rank's scalar indices mean."""
        return self._scalar_names[rank]

    def promised(self, rank: int, ranks: Ranks) -> None:
        """A rank has told all of the step: what can be merged without the others is."""
        if ranks.is_settled:
            self.gathering(ranks).promised(rank, self)

    def gathering(self, ranks: Ranks) -> Gathering:
        """What the ranks' rows come to, as far as it is known; made anew where ranks hold other parts by now."""
        parts, copies = ranks.parts, ranks.copies
        made = self._gathering
        if made is None or made.parts is not parts or made.copies is not copies:
            made = self._gathering = Gathering(ranks, parts, copies)
        return made


def _joined(pieces: Sequence[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    shared = set(pieces[0]).intersection(*pieces[1:])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in shared}
