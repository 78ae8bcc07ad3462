"""
Chunks as they rest in the store: which of them a range of steps needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import PoolProxiedConnection, bindparam, select
from sqlalchemy.dialects.sqlite import dialect

from trainvitals_monitor import schema
from trainvitals_monitor.driver import direct
from trainvitals_monitor.tiers import span_of


class StoredChunk(NamedTuple):
    """One tile of a chunk."""

    first_step: int
    last_step: int
    layout: str
    blob: bytes


def by_layout(chunks: Sequence[StoredChunk]) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """Neighbours of one layout together, as (first step, blob): they are decoded in one go (unpacking.py)."""
    for layout, alike in groupby(chunks, key=attrgetter("layout")):
        yield layout, [(chunk.first_step, chunk.blob) for chunk in alike]


_IN_RANGE = str(
    select(*(schema.chunks.c[name] for name in StoredChunk._fields))
    .where(
        schema.chunks.c.attempt_id == bindparam("attempt_id"),
        schema.chunks.c.kind == bindparam("kind"),
        schema.chunks.c.tile == bindparam("tile"),
        schema.chunks.c.first_step.between(bindparam("begin"), bindparam("last")),
        schema.chunks.c.last_step >= bindparam("first"),
    )
    .order_by(schema.chunks.c.first_step)
    .compile(dialect=dialect(paramstyle="named"))
)


def stored_chunks(
    connection: PoolProxiedConnection, attempt_id: int, kind: str, tile: int, first: int, last: int
) -> list[StoredChunk]:
    """
    The chunks of one tile that overlap the range of steps, in order.

    Those that begin a span before `first` are too short to reach it: without this bound, which the index knows, every
    chunk of the tile is looked at.
    """
    wanted = {
        "attempt_id": attempt_id,
        "kind": kind,
        "tile": tile,
        "begin": first - span_of(kind),
        "first": first,
        "last": last,
    }
    with direct(connection, _IN_RANGE) as cursor:
        cursor.execute(_IN_RANGE, wanted)
        return [StoredChunk(*row) for row in cursor.fetchall()]
