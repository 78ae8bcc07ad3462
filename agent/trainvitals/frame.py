"""
The wire format: a frame is what one rank has to say, as one safetensors blob.

Columns of facts are the blob's tensors, named `table.column`; `__metadata__` holds one JSON text, the header. Anyone
can open a spooled frame with the safetensors library. `encode` and `decode` are the only writer and reader; the
monitor validates `Header` with pydantic from these same classes. No torch is imported here. docs/wire.md is the
manual.

Fields are added, never renamed; readers ignore what they don't know; SCHEMA_VERSION grows only when a meaning changes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from trainvitals.errors import BadFrame
from trainvitals.events import (
    CheckpointSeen,
    Event,
    ForeignParameter,
    ModesSeen,
    OptimizersSeen,
    ProbeFailed,
    SlotChanged,
    StepsAttempted,
    UnregisteredSeen,
    UnregisteredTensor,
)
from trainvitals.facts import KEY_DTYPES, TABLE_BY_NAME, TABLES, Table

SCHEMA_VERSION = 1
MAX_HEADER_BYTES = 4 << 20
MAX_FRAME_BYTES = 64 << 20

Columns = Mapping[str, npt.NDArray[Any]]
"""Columns of one table by name, all of one length."""
Phase = Literal["starting", "training", "evaluating", "saving", "idle", "closed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """
    One row of a rank's tensor table. Sent once, and again when something in it changed: the last one counts.

    `shape` is the global shape. `layout` says which part this rank holds: "full" (one process), "replica" (all of it,
    as every other rank of `replica_group`), "box" (`offsets` and `sizes` per dim), "flat" (a row-major range: one
    offset and one size) or "unknown". Ranks are merged and compared only where the layout is declared.
    """

    index: int
    fqn: str
    raw_fqn: str
    kind: Literal["param", "buffer"]
    dtype: str
    shape: list[int]
    trainable: bool = False
    persistent: bool = True
    module: str = ""
    layout: Literal["full", "replica", "box", "flat", "unknown"] = "full"
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    replica_group: str = ""
    tied_to: int = -1


@dataclass(frozen=True, kw_only=True)
class Header:
    """
    Who speaks, about which steps, and what does not fit into columns.

    `attempt` is shared by all ranks of one lifetime of the process group; `process` is a random word for this rank's
    process, so that two jobs under one run name are noticed. `base_step`: steps done when the agent was attached;
    `first_step`: the smallest that this frame has rows of. `complete_through`: every fact up to this step has been
    sent with this frame or before; the monitor judges a step when all ranks are past it. `step_offset`: the trainer's
    own step number minus ours, None while unknown. `sent_at`, `started_at`: Unix seconds. `dropped`: what was lost
    since the last frame, by what ("frames", "rows", "spool"). `contract`: what the user declared, as in contract.py. `reference`: name of the run to compare
    with, "" for none.
    """

    schema_version: int = SCHEMA_VERSION
    agent_version: str
    run: str
    attempt: str
    process: str
    rank: int
    world_size: int
    seq: int
    started_at: float
    sent_at: float
    first_step: int
    base_step: int = 0
    complete_through: int
    step_offset: int | None = None
    phase: Phase = "training"
    mesh: str = ""
    tensors: list[TensorInfo] = field(default_factory=list)
    scalars: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    contract: dict[str, Any] = field(default_factory=dict)
    reference: str = ""
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A header and its tables: facts of one rank, sent together."""

    header: Header
    tables: Mapping[str, Columns]


def encode(frame: Frame) -> bytes:
    """
    The frame as bytes; columns are cast to the dtypes of facts.

    Raises BadFrame for a table or column that facts does not know, or columns of unequal length.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, columns in frame.tables.items():
        table = _known_table(name)
        length = _length(name, columns)
        if not length:
            continue
        for column, values in columns.items():
            dtype = _dtype_of(table, column)
            arrays[f"{name}.{column}"] = np.ascontiguousarray(values, dtype=dtype)
    header = json.dumps(asdict(frame.header), separators=(",", ":"), allow_nan=False)
    return bytes(save(arrays, {"header": header}))


def decode(blob: bytes) -> tuple[dict[str, Any], dict[str, dict[str, npt.NDArray[Any]]]]:
    """
    The header as plain JSON data, and the tables; unknown tables and columns are left out (a newer agent's).

    Everything that can be checked without the header's schema is: sizes, dtypes, lengths, keys. Raises BadFrame, with
    a sentence for the sender. Cost: 0.2 ms for 2,000 tensors x 8 statistics.
    """
    header = _header(blob)
    try:
        blobs = deserialize(blob)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise BadFrame(f"not a safetensors blob: {error}") from error
    tables: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for full_name, content in blobs:
        known = _COLUMNS.get(full_name)
        if known is not None:
            name, column, dtype = known
            tables.setdefault(name, {})[column] = _array(full_name, content, dtype)
    for name, columns in tables.items():
        _length(name, columns)
        missing = [key for key in TABLE_BY_NAME[name].keys if key not in columns]
        if missing:
            raise BadFrame(f"table {name!r} lacks its key column {missing[0]!r}")
    return header, tables


def _header(blob: bytes) -> dict[str, Any]:
    if len(blob) < 8:
        raise BadFrame("truncated: a frame starts with eight bytes of length")
    (size,) = struct.unpack_from("<Q", blob)
    if size > MAX_HEADER_BYTES:
        raise BadFrame(f"header of {size} bytes; at most {MAX_HEADER_BYTES} are read")
    if 8 + size > len(blob):
        raise BadFrame(f"truncated: {len(blob)} bytes, the header alone says {8 + size}")
    try:
        header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["header"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadFrame(f"no readable header in __metadata__: {type(error).__name__}") from error
    if not isinstance(header, dict):
        raise BadFrame("the header is not a JSON object")
    return header


def _array(name: str, content: Mapping[str, Any], dtype: str) -> npt.NDArray[Any]:
    wire_dtype = _WIRE_DTYPES[dtype]
    if content["dtype"] != wire_dtype:
        raise BadFrame(f"column {name!r} is {content['dtype']}; it must be {wire_dtype}")
    if len(content["shape"]) != 1:
        raise BadFrame(f"column {name!r} has {len(content['shape'])} dims; it must have one")
    return np.frombuffer(content["data"], dtype=dtype)


# Every column by its name on the wire: table, column, dtype.
_COLUMNS = {
    f"{table.name}.{column}": (table.name, column, table.dtype_of(column))
    for table in TABLES
    for column in (*table.keys, *(own.name for own in table.columns))
}
_WIRE_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "int64": "I64",
    "int32": "I32",
    "uint64": "U64",
    "uint8": "U8",
}


def _known_table(name: str) -> Table:
    table = TABLE_BY_NAME.get(name)
    if table is None:
        raise BadFrame(f"no table {name!r} in facts")
    return table


def _dtype_of(table: Table, column: str) -> str:
    try:
        return table.dtype_of(column)
    except KeyError as error:
        raise BadFrame(str(error)) from error


def _length(name: str, columns: Columns) -> int:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise BadFrame(f"columns of table {name!r} have different lengths: {sorted(lengths)}")
    return lengths.pop() if lengths else 0


__all__ = [
    "KEY_DTYPES",
    "MAX_FRAME_BYTES",
    "MAX_HEADER_BYTES",
    "SCHEMA_VERSION",
    "CheckpointSeen",
    "Columns",
    "Event",
    "ForeignParameter",
    "Frame",
    "Header",
    "ModesSeen",
    "OptimizersSeen",
    "Phase",
    "ProbeFailed",
    "SlotChanged",
    "StepsAttempted",
    "TensorInfo",
    "UnregisteredSeen",
    "UnregisteredTensor",
    "decode",
    "encode",
]
