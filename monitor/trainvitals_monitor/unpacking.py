"""
From chunks of the store back to series: of one tensor, or of a whole tile. What the bytes mean is told in chunks.py.

Chunks of one layout are decoded together, which is most of what a long series is made of.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.chunks import (
    LENGTH,
    Bools,
    Bytes,
    Field,
    Floats,
    Form,
    Series,
    Steps,
    Tile,
    form_of,
)

_NO_FIELD = Field("", 0, 0, 0, 0)
_NO_SERIES: Series = (np.empty(0, np.int64), np.empty(0))
_Scalar = TypeVar("_Scalar", bound=np.generic)


def unpack(first_step: int, layout: str, blob: bytes, record: int, statistic: str) -> Series:
    """One statistic of one of the blob's records; empty if there is none of it."""
    return unpack_record(layout, ((first_step, blob),), record, (statistic,))[0]


def unpack_record(
    layout: str, chunks: Sequence[tuple[int, bytes]], record: int, statistics: Sequence[str]
) -> list[Series]:
    """
    Some statistics of one record, over chunks (first step, blob) of one layout, in their order.

    A chunk is inflated once at most, and as far as the last of the statistics; all are decoded together.
    """
    form = form_of(layout)
    fields = [form.fields.get(statistic, _NO_FIELD) for statistic in statistics]
    at, other = record * form.plain_bytes, record * form.packed_bytes
    ends = [field.packed_at + field.packed_bytes for field in fields if field.packed_bytes]
    packed_bytes = max(ends, default=0)
    steps: list[Steps] = []
    plain: list[memoryview] = []
    packed: list[bytes] = []
    for first_step, blob in chunks:
        own, rows, deflated = _opened(first_step, form, blob)
        part, second = rows[at : at + form.plain_bytes], b""
        if packed_bytes:
            second = zlib.decompressobj().decompress(deflated, other + packed_bytes)[other:]
        if len(part) < form.plain_bytes or len(second) < packed_bytes:
            continue  # the tensor came later: its tile was shorter then
        steps.append(own)
        plain.append(part)
        packed.append(second)
    if not steps:
        return [_NO_SERIES] * len(fields)
    all_steps = np.concatenate(steps)
    columns = np.frombuffer(b"".join(plain), np.uint8).reshape(len(steps), form.plain_bytes)
    others = np.frombuffer(b"".join(packed), np.uint8).reshape(len(steps), packed_bytes)
    return [_series(all_steps, form.num_steps, field, columns, others) for field in fields]


def _series(steps: Steps, num_steps: int, field: Field, plain: Bytes, packed: Bytes) -> Series:
    """One statistic, of the two parts [m, bytes] of m records that follow one another."""
    if field is _NO_FIELD:
        return _NO_SERIES
    values, seen = _decode(field, plain, packed, num_steps)
    if not field.encoding.endswith("+"):
        return steps, values.T.ravel()
    looked = seen.T.ravel()
    return steps[looked], values.T.ravel()[looked]


def unpack_tiles(layout: str, chunks: Sequence[tuple[int, bytes]]) -> list[Tile]:
    """All statistics of chunks (first step, blob) of one layout, in their order; those of as many tensors are one tile."""
    form = form_of(layout)
    opened = []
    for first_step, blob in chunks:
        steps, plain, packed = _opened(first_step, form, blob)
        second = zlib.decompress(packed) if form.deflated else b""
        count = (len(plain) + len(second)) // (form.plain_bytes + form.packed_bytes)
        opened.append((count, steps, plain, second))
    return [_tile(form, count, list(alike)) for count, alike in groupby(opened, key=itemgetter(0))]


def _tile(form: Form, count: int, opened: list[tuple[int, Steps, memoryview, bytes]]) -> Tile:
    """Chunks of `count` records each that follow one another, decoded together."""
    _, steps, plain, packed = zip(*opened, strict=True)
    records = len(opened) * count
    rows = np.frombuffer(b"".join(plain), np.uint8).reshape(records, form.plain_bytes)
    others = np.frombuffer(b"".join(packed), np.uint8).reshape(records, form.packed_bytes)
    found = {}
    for name, field in form.fields.items():
        values, seen = _decode(field, rows, others, form.num_steps)
        found[name] = _one_below_another(values, count), _one_below_another(seen, count)
    return np.concatenate(steps), found


def _one_below_another(columns: npt.NDArray[_Scalar], count: int) -> npt.NDArray[_Scalar]:
    """[k, m * n], m chunks of n tensors side by side, as [m * k, n]."""
    by_chunk = columns.reshape(len(columns), -1, count).transpose(1, 0, 2)
    below: npt.NDArray[_Scalar] = by_chunk.reshape(-1, count)
    return below


def _opened(first_step: int, form: Form, blob: bytes) -> tuple[Steps, memoryview, memoryview]:
    """The steps, and the two sections, the second one still deflated; nothing is copied."""
    rest = memoryview(blob)
    if form.has_steps:
        steps = np.frombuffer(blob, "<i8", form.num_steps)
        rest = rest[steps.nbytes :]
    else:
        steps = np.arange(first_step, first_step + form.num_steps, dtype=np.int64)
    if not form.deflated:
        return steps, rest, rest[:0]
    (length,) = LENGTH.unpack_from(rest)
    bound = LENGTH.size + length
    return steps, rest[LENGTH.size : bound], rest[bound:]


def _decode(field: Field, plain: Bytes, packed: Bytes, count: int) -> tuple[Floats, Bools]:
    """Values and seen, [k, n], of the two parts of n records."""
    plain = plain[:, field.plain_at : field.plain_at + field.plain_bytes]
    packed = packed[:, field.packed_at : field.packed_at + field.packed_bytes]
    encoding = field.encoding
    shape = (count, len(plain))
    if encoding == "h4":
        planes = np.empty((len(plain), count, 4), np.uint8)
        planes[:, :, :2] = plain.reshape(len(plain), count, 2)
        planes[:, :, 3], planes[:, :, 2] = packed[:, :count], packed[:, count:]
        single = planes.reshape(len(plain), -1).view("<f4")
        return single.T.astype(np.float64), np.ones(shape, np.bool_)
    seen, columns = np.ones(shape, np.bool_), plain
    if encoding.endswith("+"):
        bound = (count + 7) // 8
        seen = np.unpackbits(packed[:, :bound], axis=1, count=count).T.astype(np.bool_)
        columns = packed[:, bound:]
    kind = encoding.rstrip("+")
    numbers = np.ascontiguousarray(columns).view("<f8" if kind == "c" else f"<{kind}")
    return np.broadcast_to(numbers.T, shape).astype(np.float64), seen
