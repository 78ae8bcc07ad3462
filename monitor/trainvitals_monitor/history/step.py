"""
The facts of one step: how they wait until it is judged, and how they are written into the history then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import (
    BEGINNING,
    DIGESTS,
    EXPERT_LOADS,
    GRADIENT_REPLICAS,
    GRADIENTS,
    REPLICAS,
    ROUTING,
    TENSOR_TABLES,
    Table,
)
from trainvitals_monitor.header import MAX_TENSORS
from trainvitals_monitor.history.by_rank import TABLES as TABLES_BY_RANK
from trainvitals_monitor.history.expert_loads import routing_of
from trainvitals_monitor.history.merge import Parts, Piece, merge
from trainvitals_monitor.history.replicas import Told

if TYPE_CHECKING:
    from trainvitals_monitor.history.attempt import AttemptHistory
    from trainvitals_monitor.history.rank import Rank

Rows = Mapping[str, npt.NDArray[Any]]
MAX_PACE = 256


class Pending:
    """Rows of one step as they came: by table and rank, in each rank's order."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, list[Rows]]] = {}
        self._scalar_names: dict[int, Sequence[str]] = {}
        self.num_rows = 0

    def add(self, rank: int, table: str, rows: Rows, scalar_names: Sequence[str]) -> None:
        """More rows of a rank; `scalar_names` is what its scalar indices mean."""
        self._rows.setdefault(table, {}).setdefault(rank, []).append(rows)
        self._scalar_names[rank] = scalar_names
        self.num_rows += len(rows["step"])

    def extend(self, other: Pending) -> None:
        """More rows of the same step."""
        for table, by_rank in other._rows.items():
            for rank, pieces in by_rank.items():
                for rows in pieces:
                    self.add(rank, table, rows, other._scalar_names[rank])

    def of(self, table: str) -> list[tuple[int, Rows]]:
        """The rows of a table: one set of columns a rank, ordered by rank."""
        by_rank = self._rows.get(table, {})
        return [(rank, _joined(by_rank[rank])) for rank in sorted(by_rank)]

    def names(self, rank: int) -> Sequence[str]:
        """What this rank's scalar indices mean."""
        return self._scalar_names[rank]


def _joined(pieces: Sequence[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    shared = set(pieces[0]).intersection(*pieces[1:])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in shared}


@dataclass
class Pace:
    """How fast the steps went, the last ones: wall clock, seconds a step, of which the agent's; all ranks' maximum."""

    time: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))
    agent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))


def absorb(attempt: AttemptHistory, pending: Pending, step: int) -> None:
    """Write a step's rows into the attempt's history, whose window has begun the step. May be done again with more."""
    for table in TENSOR_TABLES:
        rows = pending.of(table.name)
        if not rows:
            continue
        if attempt.ranks.parts is None:
            _write_one(attempt, table, rows, step)
        else:
            _write_merged(attempt, attempt.ranks.parts, table, rows, step)
    for rank, columns in pending.of("groups"):
        groups = columns["group"]
        fit = (groups >= 0) & (groups < MAX_TENSORS)
        if "lr" in columns:
            decay = columns.get("weight_decay", np.full(len(groups), np.nan))
            attempt.held.rates(rank, groups[fit], columns["lr"][fit], decay[fit], step)
    _compared(attempt, pending)
    _routed(attempt, pending)
    for table in TABLES_BY_RANK:
        for rank, columns in pending.of(table.name):
            attempt.by_rank.put(step, table, rank, columns)
    _scalars(attempt, pending, step)
    _pace(attempt.pace, pending)


def _write_one(
    attempt: AttemptHistory, table: Table, rows: list[tuple[int, Rows]], step: int
) -> None:
    """A single rank: rows go where they belong as they are."""
    for number, columns in rows:
        index, columns = _placed(attempt.ranks[number], columns, len(attempt.tensors))
        if table not in (DIGESTS, BEGINNING):
            attempt.window.write(table, index, columns)
            continue
        if isinstance(index, slice):
            index = np.arange(len(attempt.tensors))
        _lasting(attempt, table, step, index, columns)


def _write_merged(
    attempt: AttemptHistory,
    parts: Parts,
    table: Table,
    rows: list[tuple[int, Rows]],
    step: int,
) -> None:
    pieces: list[Piece] = []
    for number, columns in rows:
        tensors, known = attempt.ranks[number].translate(columns["tensor"])
        if not known.all():
            tensors, columns = tensors[known], {k: v[known] for k, v in columns.items()}
        pieces.append((tensors, parts.of(number)[tensors], columns))
    whole, merged = merge(table.columns, pieces, parts.needed, len(parts))
    if table in (DIGESTS, BEGINNING):
        _lasting(attempt, table, step, whole, merged)
    else:
        attempt.window.write(table, whole, merged)


def _compared(attempt: AttemptHistory, pending: Pending) -> None:
    """What the ranks that hold the same part say of it, side by side."""
    copies = attempt.ranks.copies
    if copies is None:
        return
    for table, made, compare in (
        (DIGESTS, REPLICAS, copies.digests),
        (GRADIENTS, GRADIENT_REPLICAS, copies.gradients),
    ):
        told = [_told(attempt, *one) for one in pending.of(table.name)]
        tensors, columns = compare(told)
        if len(tensors):
            attempt.window.write(made, tensors, columns)


def _routed(attempt: AttemptHistory, pending: Pending) -> None:
    """What the ranks that share a router counted, added up."""
    told = [_told(attempt, *one) for one in pending.of(EXPERT_LOADS.name)]
    if not told:
        return
    named = {number: rank.to_attempt for number, rank in attempt.ranks.items()}
    tensors, columns = routing_of(told, named)
    if len(tensors):
        attempt.window.write(ROUTING, tensors, columns)


def _told(attempt: AttemptHistory, number: int, columns: Rows) -> Told:
    tensors, known = attempt.ranks[number].translate(columns["tensor"])
    return Told(number, tensors[known], {name: values[known] for name, values in columns.items()})


def _placed(
    rank: Rank, columns: Rows, num_tensors: int
) -> tuple[npt.NDArray[np.int64] | slice, Rows]:
    """Where the rows go: a slice if they are all tensors in order, which is a plain copy per column."""
    tensors = columns["tensor"]
    if len(tensors) == num_tensors and rank.is_in_order(tensors):
        return slice(None), columns
    index, known = rank.translate(tensors)
    if known.all():
        return index, columns
    return index[known], {name: values[known] for name, values in columns.items()}


def _lasting(
    attempt: AttemptHistory,
    table: Table,
    step: int,
    tensors: npt.NDArray[np.int64],
    columns: Rows,
) -> None:
    own = {column.name for column in table.columns}
    kept = {name: values for name, values in columns.items() if name in own}
    if table is BEGINNING:
        attempt.beginning.put(tensors, kept, len(attempt.tensors))
    else:
        attempt.digests.put(step, tensors, kept, len(attempt.tensors))


def _scalars(attempt: AttemptHistory, pending: Pending, step: int) -> None:
    """The last value that each rank logged; of several ranks the largest (NaN if any is)."""
    values: dict[str, float] = {}
    for rank, columns in pending.of("scalars"):
        if "value" not in columns:
            continue
        names = pending.names(rank)
        own = {
            names[index]: value
            for index, value in zip(
                columns["scalar"].tolist(), columns["value"].tolist(), strict=True
            )
            if 0 <= index < len(names)
        }
        for name, value in own.items():
            values[name] = float(np.maximum(values.get(name, -np.inf), value))
    for name in sorted(values):
        attempt.scalars.put(name, step, values[name])


def _pace(pace: Pace, pending: Pending) -> None:
    rows = [columns for _, columns in pending.of("steps")]
    for name in ("time", "seconds", "agent_seconds"):
        told = [columns[name].max() for columns in rows if name in columns]
        if told:
            getattr(pace, name).append(float(max(told)))
