"""
Ranks that hold the same part of a tensor: who they are, and whose bits are not those of most.

Compared is what ranks said of one step (alike.py finds out where that is needed). Where a layout declares replicas,
those of one group are; where it is unknown, tensors of one name, shape and dtype are, and the comparison is marked as
one that nobody declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SKETCHES
from trainvitals_monitor.history.holdings import KINDS, Holdings, Named, Numbered

NONE = np.iinfo(np.int32).max
"""Stands for no rank where the lowest is looked for."""

IntArray = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]


class Told(NamedTuple):
    """Rows of one table that a rank told of one step; `tensors` are the attempt's indices."""

    rank: int
    tensors: IntArray
    columns: Mapping[str, npt.NDArray[Any]]


class Copies:
    """
    Which ranks hold the same part: `of(rank)[tensor]` is the number of the group of holders, -1 for a part held once.

    Ranks that count their steps from different ones are not in one group. Made anew when a tensor table changes.
    """

    def __init__(
        self,
        num_tensors: int,
        tables: Mapping[int, Named],
        holdings: Holdings,
        base_steps: Mapping[int, int],
    ) -> None:
        self._rows = {rank: row for row, rank in enumerate(sorted(tables))}
        self.num_tensors = num_tensors
        self.any = False
        # The last row is that of all who had named nothing then.
        keys = np.full((len(tables) + 1, num_tensors), -1, np.int64)
        likeness = holdings.likenesses
        bases = sorted(set(base_steps.values()))
        by_base = {
            base: np.where(likeness >= 0, likeness * len(bases) + number, -1)
            for number, base in enumerate(bases)
        }
        for rank, row in self._rows.items():
            keys[row] = tables[rank].by_tensor(num_tensors, by_base[base_steps[rank]])
        if not (keys >= 0).any():
            return
        numbered = Numbered(keys)
        first = np.cumsum(numbered.counts) - numbered.counts
        of = np.where(keys >= 0, numbered.within + first, -1)
        held = np.bincount(of[keys >= 0], minlength=int(numbered.counts.sum()))
        self._of = np.where((keys >= 0) & (held[of] > 1), of, -1).astype(np.int32)
        self.num_groups = len(held)
        self.tensor_of = np.repeat(np.arange(num_tensors), numbered.counts)
        unknown = np.zeros(len(holdings) * len(bases), np.bool_)
        unknown[likeness[holdings.kinds == KINDS.index("unknown")]] = True
        self.declared = np.ones(len(held), np.bool_)
        self.declared[of[keys >= 0]] = ~unknown[keys[keys >= 0] // len(bases)]
        self.any = bool((held > 1).any())

    def of(self, rank: int) -> npt.NDArray[np.int32]:
        """By tensor, the group of those who hold what this rank does."""
        row: npt.NDArray[np.int32] = self._of[self._rows.get(rank, -1)]
        return row

    def digests(self, told: Sequence[Told]) -> tuple[IntArray, Columns]:
        """Tensors of which several holders' digests were told, and the columns of facts.REPLICAS."""
        rows = self._joined(told, ("digest", "count", "square_sum", *SKETCHES))
        if rows is None:
            return np.empty(0, np.int64), {}
        rank, tensor, group, columns = rows
        like = _most(rank, group, columns["digest"])
        apart = (columns["digest"] != columns["digest"][like]) | (
            columns["count"] != columns["count"][like]
        )
        distance = np.where(apart, _distance(columns, like), 0.0)
        found, row_of = np.unique(tensor, return_inverse=True)
        lowest = lowest_of(row_of[apart], rank[apart], len(found))
        # The one that it differs from is of its own group: under HSDP other ranks hold other parts.
        shown = np.where(lowest[row_of] < 0, True, apart & (rank == lowest[row_of]))
        return found, {
            "replicas": np.bincount(row_of, minlength=len(found)),
            "replicas_declared": _least(row_of, self.declared[group], len(found), 1),
            "replicas_apart": np.bincount(row_of[apart], minlength=len(found)),
            "replica_apart": lowest,
            "replica_like": lowest_of(row_of[shown], rank[like[shown]], len(found)),
            "replica_distance": largest_of(row_of, distance, len(found)),
        }

    def _joined(
        self, told: Sequence[Told], names: Sequence[str]
    ) -> tuple[IntArray, IntArray, IntArray, Columns] | None:
        """The rows of all ranks: rank, tensor, group, columns; only finite ones, of groups that have several."""
        known = [one for one in told if all(name in one.columns for name in names)]
        if len(known) < 2:
            return None
        rank = np.concatenate([np.full(len(one.tensors), one.rank) for one in known])
        tensor = np.concatenate([one.tensors for one in known])
        group = np.concatenate([self.of(one.rank)[one.tensors] for one in known])
        columns = {name: np.concatenate([one.columns[name] for one in known]) for name in names}
        keep = (group >= 0) & (columns["count"] > 0)
        held = np.bincount(group[keep], minlength=self.num_groups)
        keep[keep] = held[group[keep]] > 1
        if not keep.any():
            return None
        return rank[keep], tensor[keep], group[keep], {k: v[keep] for k, v in columns.items()}


def _most(rank: IntArray, group: IntArray, digest: npt.NDArray[np.uint64]) -> IntArray:
    """Per row, the row whose digest most of its group have; of equally many, that of the lowest rank."""
    order = np.lexsort((rank, digest, group))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(group[order]) != 0) | (digest[order][1:] != digest[order][:-1])
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(order)))
    firsts = order[starts]
    best = np.lexsort((rank[firsts], -counts, group[firsts]))
    of_group = group[firsts][best]
    chosen = np.flatnonzero(np.diff(of_group, prepend=-1))
    like = np.zeros(int(group.max()) + 1, np.int64)
    like[of_group[chosen]] = firsts[best][chosen]
    rows: IntArray = like[group]
    return rows


def _distance(columns: Columns, like: IntArray) -> npt.NDArray[np.float64]:
    """Estimated norm of the difference, as a part of the norm of what it is compared with."""
    with np.errstate(all="ignore"):
        squares = np.mean([(columns[name] - columns[name][like]) ** 2 for name in SKETCHES], axis=0)
        relative = np.sqrt(squares / columns["square_sum"][like])
    return np.where(np.isnan(relative), np.inf, relative)


def _least(row: IntArray, values: npt.NDArray[Any], length: int, start: int) -> IntArray:
    made = np.full(length, start, np.int64)
    np.minimum.at(made, row, values.astype(np.int64))
    return made


def lowest_of(row: IntArray, ranks: npt.NDArray[Any], length: int) -> IntArray:
    """By row, the lowest of the ranks; -1 where there is none, or only NONE."""
    made = _least(row, ranks, length, NONE)
    made[made == NONE] = -1
    return made


def largest_of(
    row: IntArray, values: npt.NDArray[np.float64], length: int
) -> npt.NDArray[np.float64]:
    """By row, the largest of the values, none of which is below 0."""
    made = np.zeros(length)
    np.maximum.at(made, row, values)
    return made
