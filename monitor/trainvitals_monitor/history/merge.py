"""
The ranks' parts of one step make one row: which parts there are, and how they add up.

A part is counted once, whoever reports it: the lowest rank that looked speaks for a replica group, or for the holders
of equal boxes. A tensor is "looked at" in a step only when all its parts are in: half a norm is no norm. Where the
layout is unknown (tensor- and pipeline-parallel shards as plain tensors) or contradicts itself, the lowest rank that
has the tensor speaks for it alone; nothing is merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import Column, Merge
from trainvitals.frame import TensorInfo

IntArray = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]
Piece = tuple[IntArray, IntArray, Mapping[str, npt.NDArray[Any]]]
"""Rows of one rank: what each is about (a tensor, an entry), which part of it (-1: no say), and the columns."""

_WHOLE = ("whole",)
_BY_WHICH = {Merge.MIN: np.minimum, Merge.MAX: np.maximum}


class Parts:
    """
    Who holds which part: `of(rank)[tensor]` is the number of the part that the rank holds, -1 if it has no say;
    `within(rank)` counts from 0 for each tensor. `needed[tensor]` is how many parts make it up.

    Made anew when a rank's tensor table changes; one pass over all rows of all ranks, 1 us each.
    """

    def __init__(self, num_tensors: int, tables: Mapping[int, Mapping[int, TensorInfo]]) -> None:
        holders: list[dict[tuple[Any, ...], int]] = [{} for _ in range(num_tensors)]
        kinds: list[set[str]] = [set() for _ in range(num_tensors)]
        for infos in tables.values():
            for tensor, info in infos.items():
                kinds[tensor].add(_kind(info))
        self._of: dict[int, IntArray] = {}
        self._within = {rank: np.full(num_tensors, -1, np.int64) for rank in tables}
        for rank in sorted(tables):
            for tensor, info in tables[rank].items():
                part = _part(info, declared=len(kinds[tensor]) == 1, rank=rank)
                if part is None:
                    continue
                known = holders[tensor]
                if part[0] == "alone" and known and part not in known:
                    continue
                if part not in known:
                    known[part] = len(known)
                self._within[rank][tensor] = known[part]
        self.needed = np.array([len(known) for known in holders], np.int64)
        first = np.cumsum(self.needed) - self.needed
        for rank, within in self._within.items():
            self._of[rank] = np.where(within >= 0, first + within, -1)

    def of(self, rank: int) -> IntArray:
        """The part that this rank holds of each tensor."""
        return self._of[rank]

    def within(self, rank: int) -> IntArray:
        """The same, counted within each tensor."""
        return self._within[rank]

    def __len__(self) -> int:
        return int(self.needed.sum())


def _kind(info: TensorInfo) -> str:
    return "whole" if info.layout in ("full", "replica") else info.layout


def _part(info: TensorInfo, declared: bool, rank: int) -> tuple[Any, ...] | None:
    """What part this is; None if it is empty (more ranks than rows)."""
    kind = _kind(info)
    if not declared or kind == "unknown":
        return ("alone", rank)
    if kind == "whole":
        return _WHOLE
    if 0 in info.sizes:
        return None
    return (kind, *info.offsets, *info.sizes)


def merge(
    columns: Sequence[Column], pieces: Sequence[Piece], needed: IntArray, num_parts: int
) -> tuple[IntArray, Columns]:
    """
    The rows of all ranks as rows about whole subjects.

    Args:
        pieces: ordered by rank; of two rows of one rank about the same part the last one counts.
        needed: how many parts make up each subject.

    Returns:
        The subjects whose parts are all there, ascending, and their columns.
    """
    there = [c for c in columns if any(c.name in given for _, _, given in pieces)]
    made = {column.name: _start(column, len(needed)) for column in there}
    arrived = np.zeros(len(needed), np.int64)
    every = np.arange(len(needed))
    taken = np.zeros(num_parts + 1, np.bool_)  # one more for those of no part, -1
    for subject, part, given in pieces:
        fresh = (part >= 0) & ~taken[part]
        if not fresh.any():  # most ranks, where all hold the same
            continue
        if fresh.all() and np.array_equal(subject, every) and (np.diff(part) > 0).all():
            # All subjects in order, as most frames have them: nothing need be picked, a third of the cost.
            taken[part] = True
            arrived += 1
            for column in there:
                if column.name in given:
                    _add(column.merge, made[column.name], None, given[column.name])
            continue
        rows = _last_of_each(part, np.flatnonzero(fresh))
        taken[part[rows]] = True
        arrived += np.bincount(subject[rows], minlength=len(needed))
        for column in there:
            if column.name in given:
                _add(column.merge, made[column.name], subject[rows], given[column.name][rows])
    whole = np.flatnonzero((arrived == needed) & (arrived > 0))
    return whole, {c.name: _end(c.merge, made[c.name][whole]) for c in there}


def _last_of_each(part: IntArray, rows: IntArray) -> IntArray:
    """Of rows about the same part the last one."""
    if bool((np.diff(part[rows]) > 0).all()):
        return rows
    # np.unique keeps the first of equals, so look from behind.
    _, from_behind = np.unique(part[rows][::-1], return_index=True)
    last: IntArray = rows[::-1][from_behind]
    return last


def _start(column: Column, length: int) -> npt.NDArray[Any]:
    dtype = np.dtype(column.dtype)
    neutral: float | int = 0
    if column.merge in (Merge.MIN, Merge.MAX):
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        neutral = limits.max if column.merge is Merge.MIN else limits.min
        if dtype.kind == "f":
            neutral = np.inf if column.merge is Merge.MIN else -np.inf
    return np.full(length, neutral, dtype)


def _add(
    how: Merge, made: npt.NDArray[Any], subject: IntArray | None, values: npt.NDArray[Any]
) -> None:
    """`subject`: which each value is about; None: all of them, in order."""
    with np.errstate(all="ignore"):  # NaN and infinity are facts; digests wrap
        if how is Merge.ROOT_SUM_SQUARES:
            values = values * values
        add = _BY_WHICH.get(how, np.add)
        if subject is None:
            add(made, values, out=made)
        else:
            add.at(made, subject, values)


def _end(how: Merge, made: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.sqrt(made) if how is Merge.ROOT_SUM_SQUARES else made
