"""
What ranks that hold the same part of a tensor say of it, compared rank by rank, in whatever order they come.

Nothing is kept of each rank: of gradients' norms their range is enough, and of digests whether all are equal; where
they are not, the rows are laid side by side (replicas.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from trainvitals.facts import GRADIENT_REPLICAS, REPLICAS, SKETCHES
from trainvitals_monitor.history.replicas import (
    NONE,
    Columns,
    Copies,
    IntArray,
    Told,
    largest_of,
    lowest_of,
)

_DIGEST_COLUMNS = ("digest", "count", "square_sum", *SKETCHES)


class Gradients:
    """Norms of gradients, by group of holders; only finite ones are compared. 40 bytes a group."""

    table = GRADIENT_REPLICAS

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._ranks: set[int] = set()
        length = copies.num_groups
        self._count = np.zeros(length, np.int32)
        self._high, self._low = np.full(length, -np.inf), np.full(length, np.inf)
        self._lowest = np.full(length, NONE, np.int32)
        self._norm = np.full(length, np.nan)  # that of the lowest rank
        self._apart = np.full(length, NONE, np.int32)

    def knows(self, rank: int) -> bool:
        """Whether this rank was compared."""
        return rank in self._ranks

    def add(self, told: Told) -> None:
        """What a rank told."""
        self._ranks.add(told.rank)
        if not len(told.tensors) or "grad_norm" not in told.columns:
            return
        group, norm = self._copies.of(told.rank)[told.tensors], told.columns["grad_norm"]
        keep = (group >= 0) & np.isfinite(norm)
        if not keep.all():
            group, norm = group[keep], norm[keep]
        lowest, own = self._lowest[group], np.int32(told.rank)
        apart = self._apart[group]
        # Apart is the lowest rank whose norm is not the lowest one's: this rank, or what was the lowest before it.
        other = np.minimum(apart, np.maximum(lowest, own))
        self._apart[group] = np.where(norm == self._norm[group], apart, other)
        self._lowest[group] = np.minimum(lowest, own)
        self._norm[group] = np.where(lowest > own, norm, self._norm[group])
        self._count[group] += 1
        self._high[group] = np.maximum(self._high[group], norm)
        self._low[group] = np.minimum(self._low[group], norm)

    def columns(self, _: Iterable[Told]) -> tuple[IntArray, Columns]:
        """Tensors of which several holders' norms were told, and the columns of facts.GRADIENT_REPLICAS."""
        several = np.flatnonzero(self._count > 1)
        high, low = self._high[several], self._low[several]
        with np.errstate(all="ignore"):
            spread = np.where(high > 0, (high - low) / high, 0.0)
        found, row = np.unique(self._copies.tensor_of[several], return_inverse=True)
        return found, {
            "grad_replicas": _total(row, self._count[several], len(found)),
            "grad_spread": largest_of(row, spread, len(found)),
            "grad_apart": lowest_of(row, self._apart[several], len(found)),
        }


class Digests:
    """Digests, by group of holders; of those who read nothing none counts. 30 bytes a group."""

    table = REPLICAS

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._ranks: set[int] = set()
        length = copies.num_groups
        self._count = np.zeros(length, np.int32)
        self._lowest = np.full(length, NONE, np.int32)
        self._digest = np.zeros(length, np.uint64)
        self._elements = np.zeros(length, np.int64)
        self._differ = np.zeros(length, np.bool_)

    def knows(self, rank: int) -> bool:
        """Whether this rank was compared."""
        return rank in self._ranks

    def add(self, told: Told) -> None:
        """What a rank told."""
        self._ranks.add(told.rank)
        if not len(told.tensors) or any(name not in told.columns for name in _DIGEST_COLUMNS):
            return
        group, elements = self._copies.of(told.rank)[told.tensors], told.columns["count"]
        keep = (group >= 0) & (elements > 0)
        group, elements, digest = group[keep], elements[keep], told.columns["digest"][keep]
        other = (digest != self._digest[group]) | (elements != self._elements[group])
        self._differ[group] |= other & (self._count[group] > 0)
        self._digest[group], self._elements[group] = digest, elements
        self._count[group] += 1
        self._lowest[group] = np.minimum(self._lowest[group], np.int32(told.rank))

    def columns(self, told: Iterable[Told]) -> tuple[IntArray, Columns]:
        """
        Tensors of which several holders' digests were told, and the columns of facts.REPLICAS.

        `told`: all ranks' rows, asked for only where some differ.
        """
        several = np.flatnonzero(self._count > 1)
        found, row = np.unique(self._copies.tensor_of[several], return_inverse=True)
        length = len(found)
        columns: Columns = {
            "replicas": _total(row, self._count[several], length),
            "replicas_declared": lowest_of(row, self._copies.declared[several], length),
            "replicas_apart": np.zeros(length, np.int64),
            "replica_apart": np.full(length, -1),
            "replica_like": lowest_of(row, self._lowest[several], length),
            "replica_distance": np.zeros(length),
        }
        if self._differ.any():
            differing = np.zeros(self._copies.num_tensors, np.bool_)
            differing[self._copies.tensor_of[self._differ]] = True
            tensors, apart = self._copies.digests(
                [_of(one, differing) for one in told if differing[one.tensors].any()]
            )
            where = np.searchsorted(found, tensors)
            for name, values in apart.items():
                columns[name][where] = values
        return found, columns


def _of(told: Told, wanted: npt.NDArray[np.bool_]) -> Told:
    rows = np.flatnonzero(wanted[told.tensors])
    columns = {name: values[rows] for name, values in told.columns.items()}
    return Told(told.rank, told.tensors[rows], columns)


def _total(row: IntArray, values: npt.NDArray[np.int32], length: int) -> IntArray:
    made = np.zeros(length, np.int64)
    np.add.at(made, row, values)
    return made
