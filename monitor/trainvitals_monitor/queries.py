"""
What readers ask: runs, findings, tensors, series; from memory where the run is live, else from the store.

Each call copies what it needs under the run's lock, which the worker holds for some milliseconds at a time at most.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from trainvitals.facts import SERIES_TABLE
from trainvitals.lock import Lock
from trainvitals_monitor.chunks import Series, unpack
from trainvitals_monitor.compare import told
from trainvitals_monitor.detectors.differs_from_reference import DiffersFromReference
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity, Status
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.locking import lock_of
from trainvitals_monitor.models import ComparedOut, RunDetail, RunOut, SeriesOut, TensorOut, Tensors
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.recall import recall
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.snapshot import number, numbers

Kind = Literal["tensor", "scalar"]


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

    def series(
        self, run: str, kind: Kind, name: str, stat: str, attempt: str, first: int, last: int
    ) -> SeriesOut:
        """One statistic of one tensor, or one scalar, of one attempt."""
        if kind == "tensor" and stat not in SERIES_TABLE:
            raise Refusal(
                "invalid-query", f"no statistic {stat!r}; there are: {', '.join(SERIES_TABLE)}"
            )
        live = self._monitor.roster.get(run)
        key, offset = _attempt_of(live, attempt)
        stored = self._stored(live, key, kind, name, stat, first, last)
        recent = _recent(live, kind, name, stat, key)
        if recent is None and stored is None:
            raise Refusal("not-found", f"no {kind} {name!r} in attempt {key!r} of run {run!r}")
        steps, values = _joined(stored, recent)
        wanted = (steps >= first) & (steps <= last)
        return SeriesOut(
            run=run,
            attempt=key,
            name=name,
            stat=stat,
            step_offset=offset,
            steps=steps[wanted].tolist(),
            values=numbers(values[wanted]),
        )

    def _stored(
        self, live: LiveRun, attempt: str, kind: Kind, name: str, stat: str, first: int, last: int
    ) -> Series | None:
        """What the chunks have of the series; None if they do not know it."""
        found = live.stored_as(attempt)
        if found is None:
            return None
        attempt_id, places = found
        place = places.of_tensor(name) if kind == "tensor" else places.of_scalar(name)
        if place is None:
            return None
        tile, record = place
        parts = [
            unpack(row["first_step"], row["layout"], row["blob"], record, stat)
            for row in self._monitor.store.chunks(attempt_id, kind, tile, first, last)
        ]
        steps = [part[0] for part in parts] or [np.empty(0, np.int64)]
        values = [part[1] for part in parts] or [np.empty(0)]
        return np.concatenate(steps), np.concatenate(values)


def _attempt_of(live: LiveRun, key: str) -> tuple[str, int | None]:
    """The attempt that is meant ("" is the latest) and what leads from its steps to the trainer's."""
    with live.lock:
        history = live.engine.history.get(key) if key else live.engine.history.current
    found = key or (history.key if history else "")
    if live.stored_as(found) is None:
        raise Refusal("not-found", f"no attempt {found!r} in run {live.name!r}")
    return found, history.step_offset if history else None


def _recent(live: LiveRun, kind: Kind, name: str, stat: str, attempt: str) -> Series | None:
    """What the window in memory has of the series; None if it does not know the name."""
    with live.lock:
        history = live.engine.history.get(attempt)
        if history is None:
            return None
        if kind == "scalar":
            known = name in history.scalars.names
            return history.scalars.last(name, 1 << 20, history.step) if known else None
        index = history.tensors.index_of(name)
        if index is None:
            return None
        if index >= len(history.window.last_seen(stat)):  # named, and not looked at yet
            return np.empty(0, np.int64), np.empty(0)
        steps, values = history.window.series(stat, index)
        return steps.copy(), values.copy()


def _joined(
    stored: Series | None, recent: Series | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Both together, ordered; where both know a step the one in memory counts, which is the exact one."""
    parts = [part for part in (recent, stored) if part is not None]
    steps = np.concatenate([part[0] for part in parts])
    values = np.concatenate([part[1] for part in parts])
    unique, first = np.unique(steps, return_index=True)
    return unique, values[first]
