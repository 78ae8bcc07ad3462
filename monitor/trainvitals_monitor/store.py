"""
Where everything rests: SQLite in WAL mode, through SQLAlchemy Core. It knows bytes and rows, not what they mean.

One thread writes (see writing.py), in transactions that hold many frames; any thread reads. A transaction that has returned survives
the end of this process by any means, kill -9 included. With `synchronous=NORMAL` a power cut or a crash of the whole
machine may take the last transactions (since the log was last synced, seconds usually), never the consistency of what
is left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import RowMapping, bindparam, func, select

from trainvitals_monitor import schema
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.store_file import (
    existing_path,
    lock_file,
    open_file,
    read_file,
    resolve_path,
)
from trainvitals_monitor.stored_chunks import StoredChunk, stored_chunks
from trainvitals_monitor.writing import StoredFrame, Writing

_FRAME = select(schema.frames).where(schema.frames.c.id == bindparam("frame"))


class Store:
    """An open store; `close()` gives its file back to others."""

    def __init__(self, where: str, to_read: bool = False) -> None:
        """
        `where`: a folder, a file or a sqlite:/// URL. StoreUnusable if it cannot be used by us alone; `to_read`: if there
        is none, for then another process may have it and write.
        """
        self._lock = -1
        if to_read:
            self.path = existing_path(where)
            self._engine = read_file(self.path)
            return
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
        if self._lock >= 0:
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

    def comparison(self, run_id: int) -> dict[str, Any] | None:
        """What was put of the run's comparison with another."""
        table = schema.comparisons
        rows = self.rows(select(table.c.document).where(table.c.run_id == run_id))
        found: dict[str, Any] | None = json.loads(rows[0]["document"]) if rows else None
        return found

    def lasting(self, attempt_id: int) -> bytes | None:
        """What was put of the attempt's forgotten steps."""
        table = schema.lasting
        rows = self.rows(select(table.c.blob).where(table.c.attempt_id == attempt_id))
        return bytes(rows[0]["blob"]) if rows else None

    def frames(self, run_id: int) -> Iterator[StoredFrame]:
        """The run's frames, attempt by attempt, each rank's in its own order; read one at a time."""
        table, attempts = schema.frames, schema.attempts
        mine = select(attempts.c.id).where(attempts.c.run_id == run_id)
        order = (table.c.attempt_id, table.c.seq, table.c.rank)
        query = select(table.c.id).where(table.c.attempt_id.in_(mine)).order_by(*order)
        with self._engine.connect() as connection:
            for frame_id in list(connection.execute(query).scalars()):
                for row in connection.execute(_FRAME, {"frame": frame_id}).mappings():
                    yield StoredFrame(**row)

    def places(self, attempt_id: int, kind: str) -> dict[str, int]:
        """Where every series of this kind is in the attempt's chunks."""
        table = schema.series
        query = select(table.c.name, table.c.place)
        rows = self.rows(query.where(table.c.attempt_id == attempt_id, table.c.kind == kind))
        return {row["name"]: row["place"] for row in rows}

    def chunks(
        self, attempt_id: int, kind: str, tile: int, first: int, last: int
    ) -> list[StoredChunk]:
        """The chunks of one tile that overlap the range of steps, in order."""
        # Not the pool's raw connection: errors of opening it would be the driver's own.
        with self._engine.connect() as connection:
            return stored_chunks(connection.connection, attempt_id, kind, tile, first, last)

    def size_bytes(self) -> int:
        """Bytes on disk, the log included."""
        files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())
