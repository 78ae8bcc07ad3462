"""
Reading tensors for a manifest: the part of a handed tensor that this rank holds live, and digests of both.

Only cores are read, in chunks, so that a checkpoint of any size costs a few MB of memory and about 0.1 ms a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.capture import is_capturing
from trainvitals.cores import CorePlan, cut_many, digest_many, plan_cores
from trainvitals.dtypes import reading
from trainvitals.facts import DIGESTS
from trainvitals.layout import Layout, is_dtensor, layout_of, local_part
from trainvitals.slots import SlotTable

CHUNK = 256
"""Tensors whose cores are in memory together: at most 2 x 16 KB each in float32."""

Digests = dict[str, npt.NDArray[Any]]
"""Columns of facts.DIGESTS, without its keys."""
_NAMES = tuple(column.name for column in DIGESTS.columns)


class Pair(NamedTuple):
    """A handed tensor's plain part: entry `entry` of its manifest, compared with the attached tensor `tensor`."""

    entry: int
    tensor: int
    part: torch.Tensor
    plan: CorePlan


def is_readable_now() -> bool:
    """Whether elements can be read: not under a dispatch mode (fake tensors), nor while a CUDA graph is captured."""
    return not torch._C._len_torch_dispatch_stack() and not is_capturing()


def no_digests() -> Digests:
    """The columns, with no row."""
    return {column.name: np.empty(0, column.dtype) for column in DIGESTS.columns}


def digests_of(
    parts: Sequence[torch.Tensor],
    plans: Sequence[CorePlan],
    dtypes: Sequence[torch.dtype] | None = None,
) -> Digests:
    """Digests of plain parts, cast to `dtypes[k]` if given; cut in chunks."""
    pieces = [no_digests()]
    for start in range(0, len(parts), CHUNK):
        chunk = slice(start, start + CHUNK)
        cuts = cut_many(parts[chunk], plans[chunk])
        if dtypes is not None:
            cuts = [values.to(dtype) for values, dtype in zip(cuts, dtypes[chunk], strict=True)]
        pieces.append(digest_many(cuts, plans[chunk]))
    return joined(pieces)


def joined(pieces: Sequence[Digests]) -> Digests:
    """The rows of all pieces."""
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in _NAMES}


def part_like(tensor: torch.Tensor, layout: Layout) -> torch.Tensor | None:
    """
    The elements of a handed tensor that this rank's live part of this layout is made of, or None if they aren't there.

    A full tensor (gathered for the save) is narrowed to the rank's part; nothing is copied or communicated.
    """
    part = local_part(tensor)
    if reading(part) is None:
        return None
    if is_dtensor(tensor):
        own = layout_of(tensor)
        same = (own.offsets, own.sizes, own.shape) == (layout.offsets, layout.sizes, layout.shape)
        return part if same else None
    shape = tuple(part.shape)
    if layout.kind == "flat":
        if shape == layout.shape and part.is_contiguous():
            return part.view(-1).narrow(0, layout.offsets[0], layout.sizes[0])
        return part if shape == layout.sizes else None
    if shape == layout.sizes:
        return part
    if layout.kind == "box" and shape == layout.shape:
        for dim, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
            part = part.narrow(dim, min(offset, shape[dim]), size)
        return part
    return None


def pair_up(
    slots: SlotTable, tensors: Sequence[torch.Tensor], indices: Sequence[int]
) -> list[Pair]:
    """The entries that can be read and compared with their attached tensor; indices of -1 are passed over."""
    pairs = []
    for entry, (tensor, index) in enumerate(zip(tensors, indices, strict=True)):
        if index < 0 or not slots.readable(index):
            continue
        layout, plan = slots.layout(index), slots.plan(index)
        part = part_like(tensor, layout)
        if part is None:
            continue
        live = slots.local(index)
        if live is not None and part.device != live.device:
            plan = plan_cores(slots.fqn(index), layout, part.device)
        pairs.append(Pair(entry, index, part, plan))
    return pairs


class LiveDigests(NamedTuple):
    """Digests of live tensors in their own dtype, and cast to another; equal columns where no cast was needed."""

    own: Digests
    cast: npt.NDArray[np.uint64]


def live_digests(
    slots: SlotTable, indices: Sequence[int], dtypes: Sequence[torch.dtype]
) -> LiveDigests:
    """
    Digests of the live parts now, and the digest that each would have in `dtypes[k]`.

    A tensor that can't be read any more has count 0.
    """
    pieces, cast = [no_digests()], np.zeros(len(indices), np.uint64)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        parts = [slots.local(index) for index in chunk]
        plans = [slots.plan(index) for index in chunk]
        nothing = torch.empty(0)
        cuts = cut_many([nothing if part is None else part for part in parts], plans)
        own = digest_many(cuts, plans)
        cast[start : start + len(chunk)] = own["digest"]
        wanted = dtypes[start : start + CHUNK]
        other = [
            k
            for k, (values, dtype) in enumerate(zip(cuts, wanted, strict=True))
            # torch warns of a cast of complex numbers to real ones; who saves so keeps the real part alone.
            if values.dtype != dtype and not values.dtype.is_complex
        ]
        if other:
            again = digest_many([cuts[k].to(wanted[k]) for k in other], [plans[k] for k in other])
            cast[start + np.array(other)] = again["digest"]
        pieces.append(own)
    return LiveDigests(joined(pieces), cast)
