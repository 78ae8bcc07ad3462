"""
Where everything rests: SQLite in WAL mode, through SQLAlchemy Core. It knows bytes and rows, not what they mean.

One thread writes, in transactions that hold many frames; any thread reads. A transaction that has returned survives
the end of this process by any means, kill -9 included. With `synchronous=NORMAL` a power cut or a crash of the whole
machine may take the last transactions (since the log was last synced, seconds usually), never the consistency of what
is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, CursorResult, RowMapping, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from trainvitals_monitor import schema
from trainvitals_monitor.chunks import Chunk
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.store_file import lock_file, open_file, resolve_path

# Made once: SQLAlchemy keys its cache of compiled statements by the object, which saves 0.2 ms a frame.
_ADD_FRAME = insert(schema.frames)


@dataclass(frozen=True)
class StoredFrame:
    """One frame to write, or as it was written; `id` orders them by arrival."""

    attempt_id: int
    rank: int
    seq: int
    last_step: int
    lasting: bool
    digested: bool
    blob: bytes
    whole: bool = True
    id: int = 0


class Store:
    """An open store; `close()` gives its file back to others."""

    def __init__(self, where: str) -> None:
        """`where`: a folder, a file or a sqlite:/// URL. StoreUnusable if it cannot be used by us alone."""
        self.path = resolve_path(where)
        self._lock = lock_file(self.path)
        try:
            self._engine = open_file(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        self._engine.dispose()
        os.close(self._lock)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """One transaction: all of it or, when the body or the commit raises, nothing. Writer's thread only."""
        with self._engine.begin() as connection:
            yield Writing(connection)

    def rows(self, query: Any, **values: Any) -> list[RowMapping]:
        """A query's rows, all at once."""
        with self._engine.connect() as connection:
            return list(connection.execute(query, values).mappings())

    def runs(self) -> list[RowMapping]:
        """Rows of the table `runs`, last seen first."""
        return self.rows(select(schema.runs).order_by(schema.runs.c.last_seen.desc()))

    def count_runs(self) -> int:
        """How many runs there are."""
        return int(
            self.rows(select(func.count().label("runs")).select_from(schema.runs))[0]["runs"]
        )

    def run(self, name: str) -> RowMapping | None:
        """The row of one run."""
        rows = self.rows(select(schema.runs).where(schema.runs.c.name == name))
        return rows[0] if rows else None

    def attempts(self, run_id: int) -> list[RowMapping]:
        """Rows of the table `attempts`, oldest first."""
        table = schema.attempts
        return self.rows(select(table).where(table.c.run_id == run_id).order_by(table.c.id))

    def floors(self, attempt_id: int) -> list[RowMapping]:
        """Rows of the table `floors`."""
        table = schema.floors
        return self.rows(select(table).where(table.c.attempt_id == attempt_id))

    def findings(self, run_id: int) -> list[Finding]:
        """Every finding ever opened in the run, by first step."""
        table = schema.findings
        rows = self.rows(
            select(table.c.document).where(table.c.run_id == run_id).order_by(table.c.first_step)
        )
        return [Finding.from_json(json.loads(row["document"])) for row in rows]

    def frames(self, run_id: int) -> Iterator[StoredFrame]:
        """The run's frames in the order in which they came, read one at a time."""
        table, attempts = schema.frames, schema.attempts
        mine = select(attempts.c.id).where(attempts.c.run_id == run_id)
        query = select(table).where(table.c.attempt_id.in_(mine)).order_by(table.c.id)
        with self._engine.connect() as connection:
            result = connection.execution_options(yield_per=64).execute(query)
            for row in result.mappings():
                yield StoredFrame(**row)

    def numbers(self, attempt_id: int) -> list[tuple[int, int]]:
        """(rank, seq) of the attempt's frames that are here."""
        table = schema.frames
        query = select(table.c.rank, table.c.seq).where(table.c.attempt_id == attempt_id)
        return [(row["rank"], row["seq"]) for row in self.rows(query)]

    def chunks(
        self, run_id: int, kind: str, name: str, attempt_id: int, first: int, last: int
    ) -> list[RowMapping]:
        """The chunks (first_step, last_step, layout, blob) of one series that overlap the range of steps."""
        table, names = schema.chunks, schema.series
        series_id = (
            select(names.c.id)
            .where(names.c.run_id == run_id, names.c.kind == kind, names.c.name == name)
            .scalar_subquery()
        )
        return self.rows(
            select(table.c.first_step, table.c.last_step, table.c.layout, table.c.blob)
            .where(
                table.c.series_id == series_id,
                table.c.attempt_id == attempt_id,
                table.c.first_step <= last,
                table.c.last_step >= first,
            )
            .order_by(table.c.first_step)
        )

    def size_bytes(self) -> int:
        """Bytes on disk, the log included."""
        files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())


class Writing:
    """What may be written within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_run(self, name: str, seen: float) -> int:
        """A new run; its id."""
        row = self._connection.execute(insert(schema.runs).values(name=name, last_seen=seen))
        return _key(row)

    def add_attempt(self, run_id: int, key: str, world_size: int, started_at: float) -> int:
        """A new attempt; its id."""
        row = self._connection.execute(
            insert(schema.attempts).values(
                run_id=run_id, key=key, world_size=world_size, started_at=started_at
            )
        )
        return _key(row)

    def add_frames(self, frames: Sequence[StoredFrame]) -> None:
        """Frames that are not there yet."""
        rows = [
            {
                "attempt_id": frame.attempt_id,
                "rank": frame.rank,
                "seq": frame.seq,
                "last_step": frame.last_step,
                "whole": frame.whole,
                "lasting": frame.lasting,
                "digested": frame.digested,
                "blob": frame.blob,
            }
            for frame in frames
        ]
        if rows:
            self._connection.execute(_ADD_FRAME, rows)

    def put_mark(self, attempt_id: int, judged_through: int) -> None:
        """How far the attempt has been judged."""
        table = schema.attempts
        self._connection.execute(
            table.update().where(table.c.id == attempt_id).values(judged_through=judged_through)
        )

    def put_summary(self, run_id: int, seen: float, summary: str) -> None:
        """What the list of runs shows of a run that is not in memory."""
        table = schema.runs
        self._connection.execute(
            table.update().where(table.c.id == run_id).values(last_seen=seen, summary=summary)
        )

    def put_findings(self, run_id: int, found: Iterable[Finding]) -> None:
        """Findings that are new or have changed."""
        rows = [_finding_row(run_id, finding) for finding in found]
        if not rows:
            return
        statement = insert(schema.findings)
        changed = {
            name: statement.excluded[name] for name in rows[0] if name not in ("run_id", "id")
        }
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["run_id", "id"], set_=changed), rows
        )

    def put_chunk(
        self, run_id: int, kind: str, names: Sequence[str], attempt_id: int, chunk: Chunk
    ) -> None:
        """One chunk of many series; `names[i]` is whose `chunk.blobs[i]` is. Replaces a shorter one of the same start."""
        ids = self._series_ids(run_id, kind, names)
        rows = [
            {
                "series_id": ids[name],
                "attempt_id": attempt_id,
                "first_step": chunk.first_step,
                "last_step": chunk.last_step,
                "layout": chunk.layout,
                "blob": blob,
            }
            for name, blob in zip(names, chunk.blobs, strict=True)
            if blob is not None
        ]
        if rows:
            statement = insert(schema.chunks).prefix_with("OR REPLACE")
            self._connection.execute(statement, rows)

    def drop_frames(self, ids: Sequence[int]) -> None:
        """Forget frames; their numbers must lie below the floor that this transaction puts."""
        table = schema.frames
        if ids:
            self._connection.execute(
                table.delete().where(table.c.id == bindparam("frame")), [{"frame": i} for i in ids]
            )

    def shrink_frame(self, frame_id: int, blob: bytes) -> None:
        """Keep only this of a frame."""
        table = schema.frames
        self._connection.execute(
            table.update().where(table.c.id == frame_id).values(blob=blob, whole=False)
        )

    def put_floor(self, attempt_id: int, rank: int, floor: int) -> None:
        """Numbers below are duplicates from now on."""
        statement = insert(schema.floors).values(attempt_id=attempt_id, rank=rank, floor=floor)
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["attempt_id", "rank"], set_={"floor": statement.excluded.floor}
            )
        )

    def old_frames(self, attempt_id: int, through: int) -> list[RowMapping]:
        """Whole frames (without their blobs) of the attempt that speak of nothing after the step `through`."""
        table = schema.frames
        query = select(
            table.c.id, table.c.rank, table.c.seq, table.c.lasting, table.c.digested
        ).where(table.c.attempt_id == attempt_id, table.c.whole, table.c.last_step <= through)
        return list(self._connection.execute(query).mappings())

    def blob(self, frame_id: int) -> bytes:
        """The blob of one frame."""
        table = schema.frames
        found: bytes = self._connection.execute(
            select(table.c.blob).where(table.c.id == frame_id)
        ).scalar_one()
        return found

    def _series_ids(self, run_id: int, kind: str, names: Sequence[str]) -> dict[str, int]:
        table = schema.series
        query = select(table.c.name, table.c.id).where(
            table.c.run_id == run_id, table.c.kind == kind
        )
        known = {name: int(key) for name, key in self._connection.execute(query)}
        fresh = [name for name in dict.fromkeys(names) if name not in known]
        if fresh:
            self._connection.execute(
                insert(table), [{"run_id": run_id, "kind": kind, "name": name} for name in fresh]
            )
            known = {name: int(key) for name, key in self._connection.execute(query)}
        return known


def _key(inserted: CursorResult[Any]) -> int:
    row = inserted.inserted_primary_key
    return int(row[0]) if row else -1


def _finding_row(run_id: int, finding: Finding) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "id": finding.id,
        "attempt": finding.attempt,
        "detector": finding.detector,
        "severity": finding.severity.value,
        "status": finding.status.value,
        "first_step": finding.first_step,
        "last_step": finding.last_step,
        "document": json.dumps(finding.as_json()),
    }
