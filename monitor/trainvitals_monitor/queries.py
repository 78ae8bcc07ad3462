"""
What readers ask: runs, findings, tensors, series; from memory where the run is live, else from the store.

Each call copies what it needs under the run's lock, which the worker holds for some milliseconds at a time at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from pydantic import ValidationError

from trainvitals.facts import SERIES_TABLE
from trainvitals.lock import Lock
from trainvitals_monitor.chunks import Series
from trainvitals_monitor.compare import told
from trainvitals_monitor.detectors.differs_from_reference import DiffersFromReference
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity, Status
from trainvitals_monitor.history import AttemptHistory
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.locking import lock_of
from trainvitals_monitor.models import (
    ComparedOut,
    RunDetail,
    RunOut,
    SeriesOut,
    TensorOut,
    Tensors,
    Worst,
    WorstOut,
)
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.reading import Place, read, tier_for
from trainvitals_monitor.recall import recall
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.snapshot import number, numbers
from trainvitals_monitor.tiers import Thinned, joined, thin

Kind = Literal["tensor", "scalar"]
MAX_POINTS = 20_000


@dataclass(frozen=True, kw_only=True)
class SeriesAsked:
    """A tensor's statistic or a scalar (whose `stat` is "value") over steps of an attempt, in at most `points` points."""

    run: str
    kind: Kind
    name: str
    stat: str
    attempt: str
    first: int
    last: int
    points: int


class Queries:
    """The reading side of a monitor. Any thread; raises Refusal for what there is none of."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def runs(self) -> list[RunOut]:
        """Every run, last seen first."""
        live = {run.name: run for run in self._monitor.roster.all()}
        found = []
        for row in self._monitor.store.runs():
            run = live.get(row["name"])
            try:
                out = run.snapshot() if run else RunOut.model_validate_json(row["summary"])
            except ValidationError:  # written by another version: read the run itself
                out = self._monitor.roster.get(row["name"]).snapshot()
            found.append(out.model_copy(update={"page": self._monitor.roster.page(row["name"])}))
        return sorted(found, key=lambda out: -out.last_seen)

    def run(self, name: str) -> RunDetail:
        """One run with its attempts and its coverage."""
        live = self._monitor.roster.get(name)
        with live.lock:
            current = live.engine.history.current
            scalars = current.scalars.names if current else []
            detail = live.engine.coverage()
        return RunDetail(
            **live.snapshot().model_dump(),
            all_attempts=live.attempts(),
            scalars=scalars,
            detail=detail,
        )

    def muted(self, finding: Finding) -> str:
        """Why the finding is acknowledged or muted; "" if it is not."""
        mute = self._monitor.mutes.of(finding)
        return mute.reason if mute else ""

    def lock(self, name: str) -> Lock:
        """The latest attempt as a lock of its tensors."""
        live = self._monitor.roster.get(name)
        with live.lock:
            current = live.engine.history.current
            return lock_of(current) if current else Lock()

    def compared(self, name: str, reference: str) -> ComparedOut:
        """The run as it rests in the store beside another one."""
        store = self._monitor.store
        row, found = store.run(name), self._monitor.roster.references.find(reference)
        if row is None or found is None:
            unknown = name if row is None else reference
            raise Refusal(
                "not-found", f"no run {unknown!r}; GET /api/v1/runs lists those that there are"
            )
        engine = Engine(name, (DiffersFromReference,), self._monitor.config.tuning)
        engine.history.compare_with(found.reference)
        recall(store, row["id"], engine)
        return ComparedOut.model_validate(told(engine, found.reference).as_json())

    def last_step(self, name: str) -> int:
        """The last judged step of the latest attempt, in the attempt's own count."""
        live = self._monitor.roster.get(name)
        with live.lock:
            current = live.engine.history.current
            return current.step if current else -1

    def worst(self, name: str, stat: str, count: int) -> Worst:
        """Tensors of the latest attempt with the largest last value of a statistic, NaN first."""
        if stat not in SERIES_TABLE:
            raise Refusal(
                "invalid-query", f"no statistic {stat!r}; there are: {', '.join(SERIES_TABLE)}"
            )
        live = self._monitor.roster.get(name)
        with live.lock:
            found = live.engine.worst(stat, count)
        return Worst(
            stat=stat,
            tensors=[
                WorstOut(fqn=fqn, value=number(value) or 0.0, step=step)
                for fqn, value, step in found
            ],
        )

    def findings(
        self, name: str, status: Status | None, severity: Severity | None
    ) -> list[Finding]:
        """Every finding, open before resolved, worst first; or those of one status or severity."""
        live = self._monitor.roster.get(name)
        with live.lock:
            found = live.engine.findings
        return sorted(
            (
                one
                for one in found
                if status in (None, one.status) and severity in (None, one.severity)
            ),
            key=lambda one: (one.status is Status.RESOLVED, one.severity.rank, one.first_step),
        )

    def tensors(self, name: str, match: str, offset: int, limit: int) -> Tensors:
        """One page of the tensors of the latest attempt."""
        live = self._monitor.roster.get(name)
        with live.lock:
            current = live.engine.history.current
            if current is None:
                return Tensors(total=0, offset=offset, tensors=[])
            table, window = current.tensors, current.window
            indices = [
                i for i, fqn in enumerate(table.fqn) if match == "*" or fnmatchcase(fqn, match)
            ]
            page = indices[offset : offset + limit]
            latest = {
                stat: (window.latest(stat), window.last_seen(stat)) for stat in window.stats if page
            }
            tensors = [
                TensorOut(
                    fqn=table.fqn[i],
                    raw_fqn=table.raw_fqn[i],
                    role=table.role[i].value,
                    dtype=table.dtype[i],
                    numel=int(table.numel[i]),
                    kind="param" if table.is_param[i] else "buffer",
                    trainable=bool(table.trainable[i]),
                    latest={
                        stat: number(float(values[i])) or 0.0
                        for stat, (values, seen) in latest.items()
                        if i < len(seen) and seen[i] >= 0
                    },
                )
                for i in page
            ]
        return Tensors(total=len(indices), offset=offset, tensors=tensors)

    def series(self, of: SeriesAsked) -> SeriesOut:
        """One statistic of one tensor, or one scalar, of one attempt."""
        if of.kind == "tensor" and of.stat not in SERIES_TABLE:
            raise Refusal(
                "invalid-query", f"no statistic {of.stat!r}; there are: {', '.join(SERIES_TABLE)}"
            )
        live = self._monitor.roster.get(of.run)
        key, history = _attempt_of(live, of.attempt)
        base = history.base_step if history else 0
        every = tier_for(min(of.last, live.judged_through(key)) - max(of.first, base), of.points)
        stored = self._stored(live, key, of, every)
        found = _joined(stored, _recent(live, of, key), every)
        if found is None:
            raise Refusal(
                "not-found", f"no {of.kind} {of.name!r} in attempt {key!r} of run {of.run!r}"
            )
        found = found.part((found.steps >= of.first) & (found.steps <= of.last))
        if every > 1:
            found = thin(found, every)
        plain = np.array_equal(found.low, found.high, equal_nan=True)
        return SeriesOut(
            run=of.run,
            attempt=key,
            name=of.name,
            stat=of.stat,
            step_offset=history.step_offset if history else None,
            every=every,
            steps=found.steps.tolist(),
            values=numbers(found.last),
            low=[] if plain else numbers(found.low),
            high=[] if plain else numbers(found.high),
        )

    def _stored(self, live: LiveRun, key: str, of: SeriesAsked, every: int) -> Thinned | None:
        """What the chunks have of the series; None if they do not know it."""
        found = live.stored_as(key)
        if found is None:
            return None
        attempt_id, places = found
        place = places.of_tensor(of.name) if of.kind == "tensor" else places.of_scalar(of.name)
        if place is None:
            return None
        where = Place(attempt_id, of.kind, *place, of.stat)
        return read(self._monitor.store, where, of.first, of.last, every)


def _attempt_of(live: LiveRun, key: str) -> tuple[str, AttemptHistory | None]:
    """The attempt that is meant ("" is the latest), and its history where that is in memory."""
    with live.lock:
        history = live.engine.history.get(key) if key else live.engine.history.current
    found = key or (history.key if history else "")
    if live.stored_as(found) is None:
        raise Refusal("not-found", f"no attempt {found!r} in run {live.name!r}")
    return found, history


def _recent(live: LiveRun, of: SeriesAsked, attempt: str) -> Series | None:
    """What the window in memory has of the series; None if it does not know the name."""
    with live.lock:
        history = live.engine.history.get(attempt)
        if history is None:
            return None
        if of.kind == "scalar":
            known = of.name in history.scalars.names
            return history.scalars.last(of.name, 1 << 20, history.step) if known else None
        index = history.tensors.index_of(of.name)
        if index is None:
            return None
        if index >= len(history.window.last_seen(of.stat)):  # named, and not looked at yet
            return np.empty(0, np.int64), np.empty(0)
        steps, values = history.window.series(of.stat, index)
        return steps.copy(), values.copy()


def _joined(stored: Thinned | None, recent: Series | None, every: int) -> Thinned | None:
    """Both together, ordered. Where both know a step the one in memory counts, which is the exact one."""
    if recent is None:
        return stored
    exact = Thinned(recent[0], recent[1], recent[1], recent[1])
    if stored is None or not len(stored.steps):
        return exact
    if every > 1:  # a stretch may have begun before what is in memory
        return joined([stored, exact.part(exact.steps > stored.steps[-1])])
    before = stored.part(stored.steps < exact.steps[0]) if len(exact.steps) else stored
    return joined([before, exact])
