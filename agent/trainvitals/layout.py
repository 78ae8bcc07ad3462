"""
What part of a tensor this rank holds.

A layout is said in global coordinates, so that what ranks measured of their parts can be put together without a
collective. What is not declared (a plain tensor in a job of several ranks, a Partial placement) is "unknown": its
facts stay the rank's own, and nobody guesses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

import torch

Kind = Literal["full", "replica", "box", "flat", "unknown"]
_Interval: TypeAlias = tuple[int, int]

_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Layout:
    """
    One rank's part of a tensor of global shape `shape`.

    "full": all of it, in a job of one process. "replica": all of it, as every other rank of `replica_group`. "box":
    `offsets` and `sizes`, one a dim. "flat": a range of the row-major order, one offset and one size. "unknown": the
    global tensor is not known; `shape` and `sizes` are the local part's own (all sizes 0: the part means nothing by
    itself, as a Partial placement's).

    Ranks with equal offsets and sizes hold the same part: count it once. They must hold the same bits only if their
    `replica_group` is the same and not empty.
    """

    kind: Kind
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    replica_group: str = ""

    @property
    def numel(self) -> int:
        """Elements of the global tensor."""
        return math.prod(self.shape)

    @property
    def local_numel(self) -> int:
        """Elements of this rank's part."""
        return math.prod(self.sizes)


def layout_of(tensor: torch.Tensor, *, replicas: Sequence[int] = (), world_size: int = 1) -> Layout:
    """
    The part that `tensor` is. `replicas`: the ranks that hold all of it, as DDP says (replicas.py). No communication.

    A DTensor says it by itself; a plain tensor is full in a job of one process, a replica under DDP, and unknown
    otherwise (tensor, expert and pipeline parallel shards are often plain tensors with equal names).
    """
    if is_dtensor(tensor):
        return _dtensor_layout(tensor)
    shape = tuple(tensor.shape)
    if world_size == 1:
        return _whole("full", shape)
    if replicas:
        return _whole("replica", shape, _rank_range(replicas))
    return _whole("unknown", shape)


def flat_layout(shape: Sequence[int], offset: int, size: int) -> Layout:
    """Elements `offset` to `offset + size` in row-major order, as FSDP1 and ZeRO cut their flat buffers."""
    return Layout("flat", tuple(shape), (offset,), (size,))


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """
    This rank's part as a plain detached tensor that shares the storage.

    No collective and no wait. The version counter and the graph stay as they are. Cost: 1 us.
    """
    if is_dtensor(tensor):
        tensor = cast(Any, tensor)._local_tensor
    part = tensor.detach()
    # Conjugates and negatives may be views that torch only marks as such: numpy, and a view as bits, need the real thing.
    if part.is_conj() or part.is_neg():
        part = part.resolve_conj().resolve_neg()
    return part


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor; does not import torch.distributed.tensor, which costs as much as all of us."""
    if type(tensor) in _PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, getattr(module, "DTensor", ()))


@lru_cache(maxsize=256)
def _whole(kind: Kind, shape: tuple[int, ...], replica_group: str = "") -> Layout:
    """Thousands of tensors of one shape have one layout."""
    return Layout(kind, shape, (0,) * len(shape), shape, replica_group)


def _nothing(shape: tuple[int, ...]) -> Layout:
    dims = max(len(shape), 1)
    return Layout("unknown", shape, (0,) * dims, (0,) * dims)


def _dtensor_layout(tensor: torch.Tensor) -> Layout:
    """
    The box of a DTensor, from its placements, and checked against the size of what is really there.

    torch's compute_local_shape_and_global_offset says only where a strided part begins, not whether it is one box,
    and makes tensors on the user's default device; so the intervals are worked out here, and tested against torch's.
    """
    dtensor = cast(Any, tensor)
    shape, mesh, placements = tuple(dtensor.shape), dtensor.device_mesh, dtensor.placements
    coordinate = mesh.get_coordinate()
    if coordinate is None:  # outside the mesh: no element here of what others hold
        return Layout("box", shape, (0,) * max(len(shape), 1), (0,) * max(len(shape), 1))
    boxes = {
        shard_box(shape, tuple(mesh.shape), coordinate, placements, inside_out=inside_out)
        for inside_out in {False, any(_split_factor(place) > 1 for place in placements)}
    }
    matching = [box for box in boxes if box and box[1] == tuple(dtensor._local_tensor.shape)]
    if len(matching) != 1:
        return _nothing(shape)
    offsets, sizes = matching[0]
    group = _replica_group(mesh.mesh, coordinate, placements)
    if sizes == shape and group:
        return _whole("replica", shape, group)
    return Layout("box", shape, offsets, sizes, group)


def shard_box(
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Any],
    *,
    inside_out: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """
    Offsets and sizes of the part at a mesh coordinate; None if it is no box (Partial, or torn by a strided shard).

    Placements apply from left to right, each to what the one before left over. Shard cuts as torch.chunk does;
    _StridedShard cuts into `split_factor` pieces first, and takes its chunk of each. `inside_out`: dims with a strided
    shard are cut from right to left instead, as FSDP2 over tensor parallel really does. The two differ only where
    sizes are uneven (37 rows over 3 x 2 ranks: the placements then tell 6 rows where 5 are held).
    """
    pieces: list[list[_Interval]] = [[(0, size)] for size in shape]
    axes = list(zip(placements, mesh_shape, coordinate, strict=True))
    turned = {_dim(place) for place, _, _ in axes if inside_out and _split_factor(place) > 1}
    in_order = [axis for axis in axes if _dim(axis[0]) not in turned]
    reverse = [axis for axis in reversed(axes) if _dim(axis[0]) in turned]
    for placement, num_chunks, rank in in_order + reverse:
        if placement.is_replicate():
            continue
        dim = _dim(placement)
        if dim is None:
            return None
        split_factor = 1 if dim in turned else _split_factor(placement)
        pieces[dim] = [
            interval
            for split in range(split_factor)
            for interval in _chunk(_chunk(pieces[dim], split_factor, split), num_chunks, rank)
        ]
    joined = [_join(intervals, size) for intervals, size in zip(pieces, shape, strict=True)]
    if any(interval is None for interval in joined):
        return None
    boxed = [interval for interval in joined if interval is not None]
    return tuple(start for start, _ in boxed), tuple(stop - start for start, stop in boxed)


def _dim(placement: Any) -> int | None:
    return getattr(placement, "dim", None)


def _split_factor(placement: Any) -> int:
    return int(getattr(placement, "split_factor", 1))


def _chunk(intervals: Iterable[_Interval], num_chunks: int, rank: int) -> list[_Interval]:
    """The intervals' share of one rank, by torch.chunk's rule: the last chunks may be short or empty."""
    intervals = list(intervals)
    total = sum(stop - start for start, stop in intervals)
    size = -(-total // num_chunks)
    low, high = min(rank * size, total), min((rank + 1) * size, total)
    share: list[_Interval] = []
    seen = 0
    for start, stop in intervals:
        first, last = max(low - seen, 0), min(high - seen, stop - start)
        if first < last:
            share.append((start + first, start + last))
        seen += stop - start
    return share


def _join(intervals: Sequence[_Interval], size: int) -> _Interval | None:
    """The one interval that these make up, or None. An empty share lies at the end, as torch says it."""
    if not intervals:
        return size, size
    if any(stop != start for (_, stop), (start, _) in pairwise(intervals)):
        return None
    return intervals[0][0], intervals[-1][1]


def _replica_group(
    ranks: torch.Tensor, coordinate: Sequence[int], placements: Sequence[Any]
) -> str:
    """Names the ranks that hold the same part: those that differ only along replicated mesh axes."""
    index = tuple(
        slice(None) if placement.is_replicate() else coordinate[axis]
        for axis, placement in enumerate(placements)
    )
    return _rank_range(ranks[index].flatten().tolist())


def _rank_range(ranks: Sequence[int]) -> str:
    """Ranks in few characters ("0-7", "1-13:4", else listed); empty for a rank alone. Short: 2,000 tensors carry it."""
    if len(ranks) < 2:
        return ""
    stride = ranks[1] - ranks[0]
    if list(ranks) != list(range(ranks[0], ranks[0] + stride * len(ranks), stride)):
        return ",".join(map(str, ranks))
    return f"{ranks[0]}-{ranks[-1]}" + (f":{stride}" if stride > 1 else "")
