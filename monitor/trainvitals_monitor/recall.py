"""
A stored run through an engine once more: its frames, and of steps whose frames were forgotten what the chunks hold.

What comes out is what was seen live, but for learning rates and inputs of forgotten steps, which no chunk has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from trainvitals.errors import BadFrame
from trainvitals_monitor.chunks import TILE, Series
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.history.reference import STATS
from trainvitals_monitor.history.remembered import Remembered
from trainvitals_monitor.packed import unpack_frame
from trainvitals_monitor.unpacking import unpack

if TYPE_CHECKING:
    from trainvitals_monitor.store import Store

_LOG = logging.getLogger("trainvitals.monitor")
MAX_RECORDS = 40_000
"""Of chunks, read for one run: 2 s. Steps beyond are not recalled, the last 256 apart, which rest in frames."""
_EVER = 1 << 62


def recall(store: Store, run_id: int, engine: Engine) -> None:
    """Everything that the store has of a run into an engine that has seen nothing; it is finished afterwards."""
    attempts = {row["id"]: row["key"] for row in store.attempts(run_id)}
    remembered: set[str] = set()
    for frame in store.frames(run_id):
        key = attempts[frame.attempt_id]
        try:
            plain, tables = unpack_frame(frame.blob)
            header = validate_header(plain)
            if not frame.whole:
                # Nothing is judged before the steps that these speak of are there again.
                engine.history.ingest(header, tables)
            else:
                _remember(store, engine, frame.attempt_id, key, remembered)
                engine.ingest(header, tables)
        except (BadFrame, ValueError, KeyError):
            _LOG.exception("a stored frame of run %r can't be read any more", engine.run)
        history = engine.history.get(key)
        if history is not None:
            history.give_up_waiting()
    for attempt_id, key in attempts.items():
        _remember(store, engine, attempt_id, key, remembered)
    engine.finish()


def _remember(store: Store, engine: Engine, attempt_id: int, key: str, done: set[str]) -> None:
    """Once per attempt, after what lasts of its frames and before those that are whole."""
    history = engine.history.get(key)
    if key in done or history is None:
        return
    done.add(key)
    found = _chunks(store, attempt_id)
    if found is not None:
        history.remember(found)


def _chunks(store: Store, attempt_id: int) -> Remembered | None:
    """The series that are kept of references, over the first steps."""
    places = store.places(attempt_id, "tensor")
    fqns = sorted(places, key=lambda fqn: places[fqn])
    kept = max(1, MAX_RECORDS // (len(STATS) * max(1, len(fqns))))
    parts: list[tuple[str, int, Series]] = []
    for tile in range(-(-len(fqns) // TILE)):
        for row in store.chunks(attempt_id, "tensor", tile, -1, _EVER)[:kept]:
            for record in range(min(TILE, len(fqns) - tile * TILE)):
                for stat in STATS:
                    series = unpack(row.first_step, row.layout, row.blob, record, stat)
                    parts.append((stat, tile * TILE + record, series))
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(one[2][0] for one in parts)]))
    if not len(steps):
        return None
    statistics = {stat: np.full((len(steps), len(fqns)), np.nan) for stat in STATS}
    for stat, column, (at, values) in parts:
        # NaN was computed; that nothing was looked at is NaN here.
        known = np.where(np.isnan(values), np.inf, values)
        statistics[stat][np.searchsorted(steps, at), column] = known
    return Remembered(
        steps=steps,
        fqns=fqns,
        statistics={s: v for s, v in statistics.items() if not np.isnan(v).all()},
        scalars=dict(_scalars(store, attempt_id)),
    )


def _scalars(store: Store, attempt_id: int) -> Iterator[tuple[str, dict[int, float]]]:
    for name, tile in store.places(attempt_id, "scalar").items():
        found: dict[int, float] = {}
        for row in store.chunks(attempt_id, "scalar", tile, -1, _EVER):
            steps, values = unpack(row.first_step, row.layout, row.blob, 0, "value")
            found |= dict(zip(steps.tolist(), values.tolist(), strict=True))
        yield name, found
