"""
Whether the workers of a DataLoader all give the same batches: each holds the whole of a data set that is iterated over.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind

from trainvitals.batch_digest import digest_of

ROUNDS = 8
"""Rounds of an iteration that are compared: in each, every worker gives one batch."""
ELEMENTS = 2048
"""Elements read of each tensor of a batch: batches of sparse data differ in few."""


class Compared(NamedTuple):
    """`alike`: rounds in which all `workers` gave one batch, and another one than in the round before."""

    workers: int
    rounds: int
    alike: int


@dataclass
class _Iteration:
    round: list[int] = field(default_factory=list)
    last: int = 0
    rounds: int = 0
    alike: int = 0


class Doubled:
    """
    Compares what the workers give in the first rounds of an iteration: 5 to 30 us a batch until then, 1 us later on.

    Batches come from the workers in turns, so that those of one round are neighbours.
    """

    def __init__(self) -> None:
        self._iterations: weakref.WeakKeyDictionary[_BaseDataLoaderIter, _Iteration] = (
            weakref.WeakKeyDictionary()
        )
        self._found: Compared | None = None

    def note(self, iterator: _BaseDataLoaderIter, batch: Any) -> None:
        """A batch that this iterator has just given."""
        workers = iterator._num_workers
        if workers < 2 or iterator._dataset_kind != _DatasetKind.Iterable:
            return
        seen = self._iterations.setdefault(iterator, _Iteration())
        if seen.rounds >= ROUNDS:
            return
        place = (iterator._num_yielded - 1) % workers
        if place == 0:
            seen.round.clear()
        if len(seen.round) != place:  # listened to from the middle of a round on
            return
        seen.round.append(digest_of(batch, ELEMENTS))
        if len(seen.round) < workers or 0 in seen.round:
            return
        seen.rounds += 1
        seen.alike += len(set(seen.round)) == 1 and seen.round[0] != seen.last
        seen.last = seen.round[0]
        if seen.rounds == ROUNDS:
            self._found = Compared(workers, seen.rounds, seen.alike)

    def take(self) -> Compared | None:
        """What was found since it was last asked for."""
        found, self._found = self._found, None
        return found
