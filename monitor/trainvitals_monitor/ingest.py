"""
From a request's bytes to facts that may be used: decoded, validated, within the limits, or a Refusal that says why not.

Nothing here changes anything: what passes goes to the Monitor's queue. Whatever a sender can put into a frame is
checked before it is an index, a size or a name. docs/wire.md lists the rules.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from trainvitals.errors import BadFrame
from trainvitals.facts import TABLE_BY_NAME
from trainvitals.frame import SCHEMA_VERSION, Header, decode
from trainvitals_monitor.config import Limits
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.refusal import Refusal

MAX_ELEMENTS = 1 << 62
MAX_RUN_NAME = 200
_MAX_NUMBER = (1 << 31) - 1
RESERVED = frozenset({"findings", "lock", "tensors", "series", "scalars", "worst", "comparison"})
"""Last parts of a run's name that its address in the API could not be told from."""

Tables = Mapping[str, Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Arrival:
    """
    One frame that may be used.

    `plain` is the header as it came; `last_step` the last step that the frame speaks of.
    """

    header: Header
    plain: Mapping[str, Any]
    tables: Tables
    last_step: int


def read_frame(blob: bytes, limits: Limits) -> Arrival:
    """
    The frame in the bytes; Refusal if it is none, or asks for more than the limits allow.

    Cost: 0.4 ms for 2,000 tensors x 8 statistics. Any thread.
    """
    try:
        plain, tables = decode(blob)
    except BadFrame as error:
        raise Refusal("malformed", str(error)) from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise Refusal("malformed", f"not a frame: {type(error).__name__}") from error
    _check_version(plain)
    try:
        header = validate_header(plain)
    except BadFrame as error:
        raise Refusal("invalid-header", str(error)) from error
    check_run_name(header.run)
    _check_limits(header, limits)
    last_step = header.complete_through
    bounds = _bounds(header, limits)
    for name, columns in tables.items():
        last_step = max(last_step, _check_columns(name, columns, bounds, limits))
    return Arrival(header=header, plain=plain, tables=tables, last_step=last_step)


def check_run_name(name: str) -> None:
    """Refusal unless the name can be shown, and be told from the rest of an address."""
    parts = name.split("/")
    if not 0 < len(name) <= MAX_RUN_NAME:
        reason = f"has {len(name)} characters; 1 to {MAX_RUN_NAME} are allowed"
    elif any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        for letter in name
    ):
        reason = "holds a control character or one that has no shape"
    elif name != name.strip():
        reason = "begins or ends with a space"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "has an empty part, '.' or '..' between slashes"
    elif len(parts) > 1 and parts[-1] in RESERVED:
        reason = f"ends in /{parts[-1]}, which is a page of a run"
    else:
        return
    raise Refusal("invalid-run-name", f"run name {name[:MAX_RUN_NAME]!r} {reason}")


def _check_version(plain: Mapping[str, Any]) -> None:
    version = plain.get("schema_version")
    if type(version) is not int:
        raise Refusal("invalid-header", "schema_version: missing, or not a whole number")
    if version != SCHEMA_VERSION:
        who = (
            "the agent is newer than the monitor"
            if version > SCHEMA_VERSION
            else "the agent is too old"
        )
        raise Refusal(
            "wrong-version",
            f"frame of schema {version}, this monitor reads {SCHEMA_VERSION}: {who}; update it",
        )


def _check_limits(header: Header, limits: Limits) -> None:
    """What this monitor's own limits say; that the header is sound, `validate_header` has seen to."""
    if header.world_size > limits.ranks:
        raise Refusal(
            "over-limit", f"world_size {header.world_size}: at most {limits.ranks} are kept"
        )
    if len(header.scalars) > limits.scalars:
        raise Refusal(
            "over-limit", f"{len(header.scalars)} scalars; at most {limits.scalars} are kept"
        )
    for info in header.tensors:
        if info.index >= limits.tensors:
            raise Refusal(
                "over-limit", f"tensor {info.index}: at most {limits.tensors} a rank are kept"
            )
        if math.prod(info.shape) > MAX_ELEMENTS:
            raise Refusal(
                "invalid-header", f"tensor {info.fqn!r}: shape {info.shape} has over 2^62 elements"
            )


def _bounds(header: Header, limits: Limits) -> dict[str, tuple[int, int]]:
    """What each key column may hold."""
    return {
        "tensor": (0, limits.tensors - 1),
        "scalar": (0, len(header.scalars) - 1),
        "group": (0, limits.tensors - 1),
        "checkpoint": (0, _MAX_NUMBER),
        "entry": (0, limits.tensors - 1),
        "step": (0, header.complete_through + limits.span_steps),
    }


def _check_columns(
    name: str,
    columns: Mapping[str, npt.NDArray[Any]],
    bounds: Mapping[str, tuple[int, int]],
    limits: Limits,
) -> int:
    """The last step of the rows; Refusal if a key column points anywhere it must not."""
    last_step = -1
    for key in TABLE_BY_NAME[name].keys:
        column = columns[key]
        if not len(column):
            continue
        low, high = _range(column)
        least, most = bounds[key]
        if name == "manifest" and key == "tensor":
            least = -1
        if low < least or high > most:
            wrong = low if low < least else high
            raise Refusal(
                "invalid-columns",
                f"column '{name}.{key}' holds {wrong}; {least} to {most} are allowed here",
            )
        if key == "step":
            last_step = high
            if high - low > limits.span_steps:
                raise Refusal(
                    "over-limit",
                    f"table {name!r} speaks of {high - low} steps; at most {limits.span_steps} a frame",
                )
    return last_step


def _range(column: npt.NDArray[Any]) -> tuple[int, int]:
    """The smallest and the largest value; half the tables of a frame have one row."""
    if len(column) == 1:
        only = int(column[0])
        return only, only
    return int(column.min()), int(column.max())
