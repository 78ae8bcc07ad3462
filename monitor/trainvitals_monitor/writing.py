"""
One transaction of the store: what may be written within it. `Store.writing()` opens one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, CursorResult, RowMapping, bindparam, func, select
from sqlalchemy.dialects.sqlite import dialect, insert

from trainvitals_monitor import schema
from trainvitals_monitor.chunks import Chunk
from trainvitals_monitor.driver import direct
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.stored_chunks import StoredChunk, stored_chunks

# The statement of every frame is compiled once (see driver.py). The others are made once, because SQLAlchemy's cache of
# compiled ones goes by the object.
_FRAME_COLUMNS = [column.name for column in schema.frames.columns if not column.primary_key]
_FRAME_ROW = attrgetter(*_FRAME_COLUMNS)
_ADD_FRAME = str(insert(schema.frames).compile(dialect=dialect(), column_keys=_FRAME_COLUMNS))
_ADD_SERIES = insert(schema.series)
_PUT_CHUNK = insert(schema.chunks).prefix_with("OR REPLACE")


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
        with direct(self._connection.connection, _ADD_FRAME) as cursor:
            cursor.executemany(_ADD_FRAME, [_FRAME_ROW(frame) for frame in frames])

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

    def put_comparison(self, run_id: int, document: Mapping[str, Any]) -> None:
        """How far the run has been compared with another."""
        statement = insert(schema.comparisons).values(run_id=run_id, document=json.dumps(document))
        changed = {"document": statement.excluded.document}
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["run_id"], set_=changed)
        )

    def put_lasting(self, attempt_id: int, blob: bytes) -> None:
        """What is known from frames that are about to be forgotten, in place of what was put before."""
        statement = insert(schema.lasting).values(attempt_id=attempt_id, blob=blob)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["attempt_id"], set_={"blob": blob})
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

    def put_places(self, attempt_id: int, kind: str, places: Mapping[str, int]) -> None:
        """New series, and where they are."""
        rows = [
            {"attempt_id": attempt_id, "kind": kind, "name": name, "place": place}
            for name, place in places.items()
        ]
        if rows:
            self._connection.execute(_ADD_SERIES, rows)

    def put_chunk(self, attempt_id: int, kind: str, chunk: Chunk, first_tile: int = 0) -> None:
        """One chunk, tile by tile; replaces a shorter one of the same start."""
        rows = [
            {
                "attempt_id": attempt_id,
                "kind": kind,
                "tile": first_tile + tile,
                "first_step": chunk.first_step,
                "last_step": chunk.last_step,
                "layout": chunk.layout,
                "blob": blob,
            }
            for tile, blob in enumerate(chunk.blobs)
            if blob is not None
        ]
        if rows:
            self._connection.execute(_PUT_CHUNK, rows)

    def chunks(
        self, attempt_id: int, kind: str, tile: int, first: int, last: int
    ) -> list[StoredChunk]:
        """As `Store.chunks`, with what this transaction has written."""
        return stored_chunks(self._connection.connection, attempt_id, kind, tile, first, last)

    def first_steps(self, attempt_id: int, kind: str) -> tuple[int, int] | None:
        """Where the first and the last of the attempt's chunks of this kind begin."""
        table = schema.chunks
        query = select(func.min(table.c.first_step), func.max(table.c.first_step))
        found = self._connection.execute(
            query.where(table.c.attempt_id == attempt_id, table.c.kind == kind)
        ).one()
        return None if found[0] is None else (int(found[0]), int(found[1]))

    def drop_chunks(self, attempt_id: int, kind: str, tile: int, before: int) -> None:
        """Delete the chunks of a tile that end before this step."""
        table = schema.chunks
        self._connection.execute(
            table.delete().where(
                table.c.attempt_id == attempt_id,
                table.c.kind == kind,
                table.c.tile == tile,
                # What the next line implies, and the index knows.
                table.c.first_step < before,
                table.c.last_step < before,
            )
        )

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
        """Numbers below are duplicates from now on; a higher floor stays."""
        statement = insert(schema.floors).values(attempt_id=attempt_id, rank=rank, floor=floor)
        # Frames go by step, some at a time: among those of one step the highest number may have gone before.
        higher = func.max(schema.floors.c.floor, statement.excluded.floor)
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["attempt_id", "rank"], set_={"floor": higher}
            )
        )

    def old_frames(self, attempt_id: int, through: int, at_most: int) -> list[RowMapping]:
        """
        The oldest whole frames (without their blobs) of the attempt that speak of nothing after the step `through`.
        """
        table = schema.frames
        return list(
            self._connection.execute(
                select(table.c.id, table.c.rank, table.c.seq, table.c.lasting, table.c.digested)
                .where(
                    table.c.attempt_id == attempt_id, table.c.whole, table.c.last_step <= through
                )
                .order_by(table.c.last_step)
                .limit(at_most)
            ).mappings()
        )

    def blob(self, frame_id: int) -> bytes:
        """The blob of one frame."""
        table = schema.frames
        found: bytes = self._connection.execute(
            select(table.c.blob).where(table.c.id == frame_id)
        ).scalar_one()
        return found


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
