"""
What an attempt leaves to the next one, gathered when it is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.history.previous import Previous
from trainvitals_monitor.history.schedule import Schedule
from trainvitals_monitor.history.tensors import TensorTable, names
from trainvitals_monitor.history.traces import Traces

if TYPE_CHECKING:
    from trainvitals_monitor.history.attempt import AttemptHistory

IntArray = npt.NDArray[np.int64]

_PACE_STEPS = 32
"""How far a tensor moves in a step is told from so many of the last ones."""


def left_by(attempt: AttemptHistory) -> Previous:
    """All that later attempts are told of this one, and of those before it."""
    table = attempt.tensors
    if attempt.lasting is not None:
        # No step of an attempt long over is judged again after a restart.
        attempt.lasting.place(attempt)
    older = attempt.previous
    last_save = attempt.checkpoints.last_save
    own = last_save is not None
    if last_save is None and older is not None:
        last_save = older.last_save
    beginning = _beginning(attempt)
    return Previous(
        attempt=attempt.key,
        last_step=attempt.step,
        base_step=attempt.base_step,
        tensors={fqn: index for index, fqn in enumerate(table.fqn)},
        dtypes=dict(zip(table.fqn, table.dtype, strict=True)),
        shapes=dict(zip(table.fqn, table.shape, strict=True)),
        raw_fqns=frozenset(table.raw_fqn),
        values={stat: dict(_values(attempt, stat)) for stat in attempt.window.stats},
        last_checkpoints=attempt.checkpoints.presented,
        last_save=last_save,
        last_save_attempt=attempt.key if own else (older.last_save_attempt if older else ""),
        last_save_fqns=names(table, last_save.tensors)
        if own and last_save is not None
        else (older.last_save_fqns if older else []),
        tied={
            table.fqn[index]: table.fqn[first]
            for index, first in enumerate(attempt.tied_to.tolist())
            if first >= 0
        },
        origin=beginning.updated(older.origin) if older else beginning,
        origin_step=older.origin_step if older else attempt.base_step,
        end=_end(attempt),
        pace=dict(_pace(attempt)),
        schedules=_schedules(attempt),
        leads=dict(_leads(attempt)),
    )


def _values(attempt: AttemptHistory, stat: str) -> Iterator[tuple[str, float]]:
    looked = attempt.window.last_seen(stat) >= 0
    values = attempt.window.latest(stat)
    for index in looked.nonzero()[0].tolist():
        yield attempt.tensors.fqn[index], float(values[index])


def _leads(attempt: AttemptHistory) -> Iterator[tuple[str, float]]:
    steps = attempt.window.last_seen("optimizer_step")
    counters = attempt.window.latest("optimizer_step")
    for index in (steps >= 0).nonzero()[0].tolist():
        yield attempt.tensors.fqn[index], float(counters[index] - steps[index])


def _beginning(attempt: AttemptHistory) -> Traces:
    """The state that the attempt's first step started from."""
    step, table = attempt.digests.first_step, attempt.tensors
    rows = attempt.digests.first(len(table))
    if rows is None or step is None:
        return Traces()
    return Traces(table.fqn, rows, np.full(len(table), step))


def _end(attempt: AttemptHistory) -> Traces:
    """Each tensor as truly saved last, for that is what a resume goes on from; else as last looked at."""
    table = attempt.tensors
    traces = Traces(table.fqn, *attempt.digests.latest(len(table)))
    saves = (one for one in attempt.checkpoints.presented if one.op == "save" and one.rows)
    for save in saves:
        traces = traces.updated(_saved(save, table))
    return traces


def _saved(save: Checkpoint, table: TensorTable) -> Traces:
    rows, tensors = save.rows, save.tensors
    true = (tensors >= 0) & (rows["count"] > 0) & (rows["digest"] == rows["live_digest"])
    same = np.array(
        [
            entry < len(save.dtypes) and table.dtype[max(index, 0)] == save.dtypes[entry]
            for entry, index in enumerate(tensors.tolist())
        ],
        np.bool_,
    )
    fqns = [table.fqn[max(index, 0)] for index in tensors.tolist()]
    return Traces(fqns, rows, np.where(true & same, save.step, -1))


def _pace(attempt: AttemptHistory) -> Iterator[tuple[str, float]]:
    """The usual update of a step, per tensor: the median of late, or of the last look at all."""
    norms, seen = attempt.window.last("update_norm", _PACE_STEPS)
    since, _ = attempt.window.last("since", _PACE_STEPS)
    last, last_since = attempt.window.latest("update_norm"), attempt.window.latest("since")
    for index in (attempt.window.last_seen("update_norm") >= 0).nonzero()[0].tolist():
        looked = seen[:, index]
        steps = norms[looked, index] / np.sqrt(np.maximum(since[looked, index], 1.0))
        alone = last[index] / max(last_since[index], 1.0) ** 0.5
        yield attempt.tensors.fqn[index], float(np.median(steps) if len(steps) else alone)


def _schedules(attempt: AttemptHistory) -> dict[str, Schedule]:
    found = attempt.held.schedules(len(attempt.tensors))
    older = attempt.previous.schedules if attempt.previous else {}
    named = {attempt.tensors.fqn[index]: schedule for index, schedule in found.items()}
    return {fqn: schedule.begun_by(older.get(fqn)) for fqn, schedule in named.items()}
