"""
How series rest in the store: for up to 128 steps and TILE tensors, one blob with all their statistics.

Within a blob each tensor has a record, all of one length, so that one tensor is read without the others. A chunk's
layout is a text such as "z128 norm:h4 nonfinite:c exact:c first_moment:f4+": the number of steps, then each statistic
with its encoding, in the order in which the blob has them. `c` is one number that holds for every step, `f4`, `u2` and so
on are numpy dtypes; `+` means that a bitmap of the steps that were looked at comes first. A `~` behind the number of
steps says that the blob begins with the steps (int64), because they have gaps.

A `z` before it says that records have two parts, in two sections: the first as it is, behind its length, the second
deflated. There lies what has a bitmap, most often with few looks; and of `h4`, which is f4 in planes, the upper two bytes
of every value: signs, exponents and leading digits, which repeat. The lower bytes are noise, and are not worth the time.

Floating values rest in single precision unless that would lose range; counts are kept exactly.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

TILE = 8
"""Tensors whose records rest together: fewer rows to write, and still little to read for one of them."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Steps = npt.NDArray[np.int64]
Series = tuple[Steps, Floats]
"""Steps that were looked at, and the values there."""
Tile = tuple[Steps, Mapping[str, tuple[Floats, Bools]]]
"""Steps [k], and statistics as `pack` is given them: values and seen, [k, n], n up to TILE."""

_INTEGERS = (("u1", 0xFF), ("u2", 0xFFFF), ("u4", 0xFFFF_FFFF))
_FLOAT32 = np.finfo(np.float32)
LENGTH = struct.Struct("<I")
"""Of the first section, in bytes."""


@dataclass(frozen=True)
class Chunk:
    """`blobs[t]` holds tensors t * TILE and on; all have one layout. None where nothing was looked at."""

    first_step: int
    last_step: int
    layout: str
    blobs: list[bytes | None]


def pack(
    steps: Steps,
    statistics: Mapping[str, tuple[Floats, Bools]],
    first_step: int | None = None,
) -> Chunk | None:
    """
    Statistics of n tensors over k steps, each as values and seen of shape [k, n]; None if nothing was seen.

    `first_step`: where the chunk begins, if before its first step.

    Cost: about 20 ms for 2,000 tensors, 128 steps and 8 statistics.
    """
    plain: list[Bytes] = []
    packed: list[Bytes] = []
    fields: list[str] = []
    looked: Bools | None = None
    for name, (values, seen) in statistics.items():
        if not seen.any():
            continue
        encoding, part, other = _encode(values, seen)
        fields.append(f"{name}:{encoding}")
        plain.append(part)
        packed.append(other)
        any_seen = np.asarray(seen.any(axis=0))
        looked = any_seen if looked is None else looked | any_seen
    if looked is None:
        return None
    first = int(steps[0]) if first_step is None else first_step
    gaps = bool(steps[0] != first or np.any(np.diff(steps) != 1))
    prefix = steps.astype("<i8").tobytes() if gaps else b""
    rows, others = np.concatenate(plain, axis=1), np.concatenate(packed, axis=1)
    deflate = others.shape[1] > 0
    layout = " ".join((f"{'z' if deflate else ''}{len(steps)}{'~' if gaps else ''}", *fields))
    # What has a bitmap repeats over its length; upper bytes only have some letters more often than others.
    sparse = any(field.endswith("+") for field in fields)
    strategy = zlib.Z_DEFAULT_STRATEGY if sparse else zlib.Z_HUFFMAN_ONLY
    starts = range(0, len(rows), TILE)
    blobs: list[bytes | None] = []
    for start, any_looked in zip(starts, np.logical_or.reduceat(looked, starts), strict=True):
        records = rows[start : start + TILE].tobytes()
        if deflate and any_looked:
            packing = zlib.compressobj(1, strategy=strategy)
            second = packing.compress(others[start : start + TILE].tobytes()) + packing.flush()
            records = LENGTH.pack(len(records)) + records + second
        blobs.append(prefix + records if any_looked else None)
    return Chunk(first, int(steps[-1]), layout, blobs)


class Field(NamedTuple):
    """One statistic: its encoding, and where its bytes are in each record's two parts."""

    encoding: str
    plain_at: int
    plain_bytes: int
    packed_at: int
    packed_bytes: int


class Form(NamedTuple):
    """What a layout says."""

    num_steps: int
    has_steps: bool
    deflated: bool
    fields: dict[str, Field]
    plain_bytes: int
    packed_bytes: int


@lru_cache(maxsize=256)
def form_of(layout: str) -> Form:
    """The chunks of a run have few layouts."""
    head, *texts = layout.split(" ")
    count, plain, packed = int(head.strip("z~")), 0, 0
    fields = {}
    for text in texts:
        name, _, encoding = text.rpartition(":")
        widths = _widths(encoding, count)
        fields[name] = Field(encoding, plain, widths[0], packed, widths[1])
        plain, packed = plain + widths[0], packed + widths[1]
    return Form(count, head.endswith("~"), head.startswith("z"), fields, plain, packed)


def _encode(values: Floats, seen: Bools) -> tuple[str, Bytes, Bytes]:
    """The encoding, and each record's two parts, [n, bytes]."""
    none = np.empty((values.shape[1], 0), np.uint8)
    whole = bool(seen.all())
    if not whole:
        first = np.take_along_axis(values, seen.argmax(axis=0)[None, :], axis=0)
        values = np.where(seen, values, first)
    if bool((values[-1] == values[0]).all()) and bool((values == values[0]).all()):
        encoding, columns = "c", values[:1].astype("<f8")
    else:
        encoding, columns = _narrow(values)
    part = np.ascontiguousarray(columns.T).view(np.uint8)
    if not whole:
        bitmap = np.packbits(seen.T, axis=1)
        return encoding + "+", none, np.concatenate([bitmap, part], axis=1)
    if encoding != "f4":
        return encoding, part, none
    planes = part.reshape(len(part), -1, 4)
    low = planes[:, :, :2].reshape(len(part), -1)
    return "h4", low, np.concatenate([planes[:, :, 3], planes[:, :, 2]], axis=1)


def _narrow(values: Floats) -> tuple[str, npt.NDArray[Any]]:
    """The dtype that loses nothing of counts, and no range of anything else. Most of a run is decided by one pass."""
    with np.errstate(all="ignore"):
        if _are_counts(values[0]) and _are_counts(values):
            largest = float(values.max())
            for encoding, limit in _INTEGERS:
                if largest <= limit:
                    return encoding, values.astype(f"<{encoding}")
            return "f8", values.astype("<f8")
        size = np.abs(values)
        # NaN makes both comparisons false.
        fits = bool(size.min() >= _FLOAT32.tiny and size.max() <= _FLOAT32.max)
        if not fits:
            in_range = (size >= _FLOAT32.tiny) & (size <= _FLOAT32.max)
            fits = bool(((size == 0) | in_range | ~np.isfinite(values)).all())
        encoding = "f4" if fits else "f8"
        return encoding, values.astype(f"<{encoding}")


def _are_counts(values: Floats) -> bool:
    return bool(
        np.isfinite(values).all() and values.min() >= 0 and (values == np.floor(values)).all()
    )


def _widths(encoding: str, count: int) -> tuple[int, int]:
    """Bytes of a statistic in each part of a record."""
    kind = encoding.rstrip("+")
    if kind == "h4":
        return 2 * count, 2 * count
    width = 8 if kind == "c" else int(kind[1:]) * count
    return (0, (count + 7) // 8 + width) if encoding.endswith("+") else (width, 0)
