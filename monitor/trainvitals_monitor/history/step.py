"""
How the facts of one step are written into the history when it is judged.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainvitals.facts import (
    BEGINNING,
    DIGESTS,
    EXPERT_LOADS,
    ROUTING,
    TENSOR_TABLES,
    Table,
)
from trainvitals_monitor.history.by_rank import TABLES as TABLES_BY_RANK
from trainvitals_monitor.history.expert_loads import routing_of
from trainvitals_monitor.history.gathering import told_by
from trainvitals_monitor.history.merge import Rows
from trainvitals_monitor.history.pending import Pending
from trainvitals_monitor.history.rates import RatesTold

if TYPE_CHECKING:
    from trainvitals_monitor.history.attempt import AttemptHistory
    from trainvitals_monitor.history.rank import Rank

MAX_PACE = 256


@dataclass
class Pace:
    """How fast the steps went, the last ones: wall clock, seconds a step, of which the agent's; all ranks' maximum."""

    time: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))
    agent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_PACE))


def absorb(attempt: AttemptHistory, pending: Pending, step: int) -> None:
    """Write a step's rows into the attempt's history, whose window has begun the step. May be done again with more."""
    if attempt.world_size == 1:
        for table in TENSOR_TABLES:
            _write_one(attempt, table, pending, step)
    else:
        _write_merged(attempt, pending, step)
    _rates(attempt, pending, step)
    _routed(attempt, pending)
    for table in TABLES_BY_RANK:
        for rank, columns in pending.of(table.name).items():
            attempt.by_rank.put(step, table, rank, columns)
    _scalars(attempt, pending, step)
    _pace(attempt.pace, pending)


def _write_one(attempt: AttemptHistory, table: Table, pending: Pending, step: int) -> None:
    """A single rank: rows go where they belong as they are."""
    for number, columns in pending.of(table.name).items():
        index, columns = _placed(attempt.ranks[number], columns, len(attempt.tensors))
        if table not in (DIGESTS, BEGINNING):
            attempt.window.write(table, index, columns)
            continue
        if isinstance(index, slice):
            index = np.arange(len(attempt.tensors))
        _lasting(attempt, table, step, index, columns)


def _write_merged(attempt: AttemptHistory, pending: Pending, step: int) -> None:
    """Several ranks: what their rows come to, and how those compare that should be alike."""
    gathering = pending.gathering(attempt.ranks)
    for table in TENSOR_TABLES:
        for tensors, columns in gathering.merged(table, pending):
            if table in (DIGESTS, BEGINNING):
                _lasting(attempt, table, step, tensors, columns)
            else:
                attempt.window.write(table, tensors, columns)
    for made, tensors, columns in gathering.compared(pending):
        attempt.window.write(made, tensors, columns)


def _rates(attempt: AttemptHistory, pending: Pending, step: int) -> None:
    told = {}
    for rank, columns in pending.of("groups").items():
        if "lr" in columns:
            groups = columns["group"]
            decay = columns.get("weight_decay", np.full(len(groups), np.nan))
            told[rank] = RatesTold(groups, columns["lr"], decay)
    if told:
        attempt.held.rates(told, step)


def _routed(attempt: AttemptHistory, pending: Pending) -> None:
    """What the ranks that share a router counted, added up."""
    rows = pending.of(EXPERT_LOADS.name)
    told = [told_by(attempt.ranks[number], columns) for number, columns in rows.items()]
    if not told:
        return
    named = {number: rank.named.to_attempt for number, rank in attempt.ranks.items()}
    tensors, columns = routing_of(told, named)
    if len(tensors):
        attempt.window.write(ROUTING, tensors, columns)


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
    for rank, columns in pending.of("scalars").items():
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
    rows = list(pending.of("steps").values())
    for name in ("time", "seconds", "agent_seconds"):
        told = [columns[name] for columns in rows if name in columns]
        if told:
            getattr(pace, name).append(float(np.concatenate(told).max()))
