"""
How much goes into one frame: what was taken from the record is cut into pages that the wire allows.

A tensor's row comes before facts that refer to it, an event before the rows of its table, in the same page or an
earlier one. Most of the time there is one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.frame import MAX_HEADER_BYTES, CheckpointSeen, Event, TensorInfo

TENSORS_PER_PAGE = 2000
HEADER_BYTES = MAX_HEADER_BYTES * 3 // 4
"""What events and tensor rows may take; the rest is the contract's and the scalars' names."""
ROWS_BYTES = 16 << 20

Tables = dict[str, dict[str, npt.NDArray[Any]]]


@dataclass
class Page:
    """What goes into one frame beside its header."""

    tensors: list[TensorInfo] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)
    header_bytes: int = 0
    rows_bytes: int = 0

    def first_step(self, default: int) -> int:
        """The smallest step that a row or event is about."""
        steps = [
            int(columns["step"].min()) for columns in self.tables.values() if len(columns["step"])
        ]
        steps += [event.step for event in self.events]
        return min(steps, default=default)


def pages(tables: Tables, events: list[Event], tensors: list[TensorInfo]) -> tuple[list[Page], int]:
    """
    At least one page, and how many checkpoint entries were left out.

    A manifest that alone is too large for a header (some 30,000 keys on one rank) is cut; its rows beyond go too.
    """
    made = [Page()]
    for info in tensors:
        size = _json_bytes(info)
        if len(made[-1].tensors) >= TENSORS_PER_PAGE or made[-1].header_bytes + size > HEADER_BYTES:
            made.append(Page())
        made[-1].tensors.append(info)
        made[-1].header_bytes += size
    left_out = 0
    for event in events:
        size = _json_bytes(event)
        if size > HEADER_BYTES and isinstance(event, CheckpointSeen):
            kept = len(event.keys) * HEADER_BYTES // size
            left_out += len(event.keys) - kept
            event, tables = _cut(event, kept), _without_entries(tables, event.number, kept)
            size = HEADER_BYTES
        if made[-1].header_bytes + size > HEADER_BYTES and (made[-1].events or made[-1].tensors):
            made.append(Page())
        made[-1].events.append(event)
        made[-1].header_bytes += size
    for name, columns in tables.items():
        for rows in _in_parts(columns):
            size = sum(column.nbytes for column in rows.values())
            if name in made[-1].tables or made[-1].rows_bytes + size > ROWS_BYTES:
                made.append(Page())
            made[-1].tables[name] = rows
            made[-1].rows_bytes += size
    return made, left_out


def _in_parts(columns: dict[str, npt.NDArray[Any]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The columns in parts of at most ROWS_BYTES."""
    length = len(next(iter(columns.values())))
    row_bytes = sum(column.itemsize for column in columns.values())
    rows = max(1, ROWS_BYTES // row_bytes)
    for start in range(0, length, rows):
        yield {name: column[start : start + rows] for name, column in columns.items()}


def _cut(event: CheckpointSeen, kept: int) -> CheckpointSeen:
    return replace(
        event,
        keys=event.keys[:kept],
        tensors=event.tensors[:kept],
        dtypes=event.dtypes[:kept],
        shapes=event.shapes[:kept],
        live_keys=event.live_keys[:kept],
        missing=event.missing[:kept],
        unexpected=event.unexpected[:kept],
    )


def _without_entries(tables: Tables, checkpoint: int, kept: int) -> Tables:
    """The tables without the rows of this checkpoint's entries from `kept` on."""
    manifest = tables.get("manifest")
    if manifest is None:
        return tables
    stays = (manifest["checkpoint"] != checkpoint) | (manifest["entry"] < kept)
    return {
        **tables,
        "manifest": {name: column[np.flatnonzero(stays)] for name, column in manifest.items()},
    }


def _json_bytes(item: TensorInfo | Event) -> int:
    """About how long the item is in JSON, on the safe side, without writing it."""
    return sum(len(each.name) + 4 + _value_bytes(getattr(item, each.name)) for each in fields(item))


def _value_bytes(value: Any) -> int:
    if isinstance(value, str):
        # A character outside ASCII is written as \uXXXX, or as two of them.
        return len(value) + 2 if value.isascii() else 12 * len(value) + 2
    if isinstance(value, Iterable):
        return 2 + sum(_value_bytes(each) + 1 for each in value)
    if hasattr(value, "__dataclass_fields__"):
        return _json_bytes(value)
    return len(str(value)) + 2
