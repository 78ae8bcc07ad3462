"""
Where to cut: global positions from canonical FQN and global shape alone, and which of them a rank's part has.

The rule is part of the format. Up to 4,096 elements: all of them. Otherwise `rows` is the size of dim 0 if there are
three dims or more and it is at most 1,024 (stacked experts: none is missed), else 1; each row gets
k = ceil(64 / rows) cores of n = min(64, 4096 // (rows * k)) consecutive elements in row-major order. Core j of a row
lies in the j-th of k strata of the row, at `mix(seed + c * GOLDEN) % (width - n + 1)` from its begin, where c counts
the tensor's cores, mix is splitmix64's finalizer, and seed is the 8-byte blake2b (little-endian) of the UTF-8 text
"fqn|d0,d1,...". Strata don't overlap, so no element is counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.layout import Layout

CORE_ELEMENTS = 4096
CORES = 64
MAX_ROWS = 1024
"""A first dim beyond this is no stack of experts; a core would shrink below 4 elements."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Indices = npt.NDArray[np.int64]
_Index = TypeVar("_Index", np.int64, np.uint64)


class CorePlan:
    """
    Where to cut one rank's part of one tensor. Made by `plan_cores`. Memory: 4 bytes an element where the part is
    sharded, else the cores' starts alone.

    `layout`: the part it was planned for. `count`: elements that are cut here; 0: nothing to read. `total`: elements
    over all ranks, of `numel` in the global tensor. `index`: for torch; None: every element of the part, in order;
    `run` > 1: starts of runs; else positions. Row-major in the part.
    """

    __slots__ = (
        "_kept",
        "_starts",
        "_strided",
        "count",
        "index",
        "layout",
        "local_numel",
        "numel",
        "run",
        "total",
    )

    def __init__(self, layout: Layout, seed_text: str, device: torch.device | str) -> None:
        self.layout = layout
        self.numel = layout.numel
        self.local_numel = layout.local_numel
        self.index: torch.Tensor | None = None
        self.run = 1
        self._kept: npt.NDArray[np.uint8] | None = None
        self._strided: tuple[tuple[int, ...], torch.Tensor] | None = None
        self._starts, run = core_starts(seed_text, layout.shape)
        self.total = self.numel if not len(self._starts) else len(self._starts) * run
        if not self.local_numel or self.is_whole:
            self.count = self.local_numel
        elif self.local_numel == self.numel:
            self.count, self.run = self.total, run
            self.index = torch.from_numpy(self._starts).to(device)
        else:
            self._pick(run, device)

    def _pick(self, run: int, device: torch.device | str) -> None:
        kept, local = _inside(_elements(self._starts, run), self.layout)
        self.count = len(local)
        self._kept = np.packbits(kept)
        self.index = torch.from_numpy(_narrow(local)).to(device)

    @property
    def is_whole(self) -> bool:
        """Whether the cores are the whole tensor (at most 4,096 elements), so that what they say is exact."""
        return self.total == self.numel

    @property
    def square_scale(self) -> float:
        """
        numel / total: scales a sum of squares over cores up to the tensor.

        The same on all ranks: sqrt(square_sum * square_scale) of each part merges by root-sum-squares.
        """
        return self.numel / self.total if self.total else 1.0

    def global_indices(self) -> npt.NDArray[np.uint64]:
        """Row-major indices into the global tensor of the elements that `cut` gives, in its order. [count]"""
        if not self.count:
            return np.empty(0, np.uint64)
        if self.index is None:
            return _all_of(self.layout).astype(np.uint64)
        if self._kept is None:
            return _elements(self._starts.view(np.uint64), self.run)
        run = self.total // len(self._starts)
        kept = np.unpackbits(self._kept, count=self.total).view(np.bool_)
        return _elements(self._starts, run)[kept].astype(np.uint64)

    def strided_index(self, local: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """`index` as offsets in memory from the first element of a part that is not contiguous; kept for its strides."""
        strides, known = local.stride(), self._strided
        if known is None or known[0] != strides or known[1].device != local.device:
            positions = index.cpu().numpy().astype(np.int64)
            if self.run > 1:
                positions = _elements(positions, self.run)
            coordinates = np.unravel_index(positions, tuple(local.shape))
            offsets = sum(c * stride for c, stride in zip(coordinates, strides, strict=True))
            known = strides, torch.from_numpy(_narrow(np.asarray(offsets))).to(local.device)
            self._strided = known
        return known[1]


def plan_cores(fqn: str, layout: Layout, device: torch.device | str = "cpu") -> CorePlan:
    """
    The cut of a rank's part: the global positions, drawn from canonical FQN and global shape only, that lie in it.

    Never raises for an odd tensor. An unknown layout is planned as if the local part were all there is: comparable
    with itself over time, never with other ranks; a part that means nothing by itself (Partial) gets count 0.
    Cost: 50 us.
    """
    return CorePlan(layout, f"{fqn}|{','.join(map(str, layout.shape))}", device)


def mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finalizer (Steele, Lea, Flood 2014): every bit of a word moves every bit of the result."""
    mixed: npt.NDArray[np.uint64] = words >> np.uint64(30)
    mixed ^= words
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    shifted = mixed >> np.uint64(27)
    mixed ^= shifted
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= np.right_shift(mixed, np.uint64(31), out=shifted)
    return mixed


def core_starts(seed_text: str, shape: Sequence[int]) -> tuple[Indices, int]:
    """Global positions where the cores start, ascending, and how long each is; no starts: the whole tensor."""
    numel = math.prod(shape)
    if numel <= CORE_ELEMENTS:
        return np.empty(0, np.int64), 1
    rows = shape[0] if len(shape) >= 3 and shape[0] <= MAX_ROWS else 1
    per_row = -(-CORES // rows)
    run = min(CORES, CORE_ELEMENTS // (rows * per_row))
    row_numel = numel // rows
    edges = np.arange(per_row + 1, dtype=np.int64) * row_numel // per_row
    free = np.tile(np.diff(edges) - run + 1, rows).astype(np.uint64)
    begins = (np.arange(rows, dtype=np.int64)[:, None] * row_numel + edges[:-1]).ravel()
    seed = np.frombuffer(blake2b(seed_text.encode(), digest_size=8).digest(), "<u8")
    drawn = mix(seed + np.arange(rows * per_row, dtype=np.uint64) * GOLDEN) % free
    return begins + drawn.astype(np.int64), run


def _elements(starts: npt.NDArray[_Index], run: int) -> npt.NDArray[_Index]:
    within: npt.NDArray[_Index] = np.arange(run).astype(starts.dtype)
    elements: npt.NDArray[_Index] = (starts[:, None] + within).ravel()
    return elements


def _inside(positions: Indices, layout: Layout) -> tuple[npt.NDArray[np.bool_], Indices]:
    """Which global positions lie in the part, and where those are in it."""
    if layout.kind == "flat":
        local = positions - layout.offsets[0]
        kept = (local >= 0) & (local < layout.sizes[0])
        return kept, local[kept]
    kept = np.ones(len(positions), np.bool_)
    local = np.zeros(len(positions), np.int64)
    coordinates = np.unravel_index(positions, layout.shape)
    for coordinate, offset, size in zip(coordinates, layout.offsets, layout.sizes, strict=True):
        inner = coordinate - offset
        kept &= (inner >= 0) & (inner < size)
        local = local * size + inner
    return kept, local[kept]


def _all_of(layout: Layout) -> Indices:
    """Global index of every element of the part, in the part's row-major order."""
    if layout.kind == "flat":
        return np.arange(layout.offsets[0], layout.offsets[0] + layout.sizes[0])
    if layout.local_numel == layout.numel:
        return np.arange(layout.numel)
    indices = np.zeros(1, np.int64)
    for dim, offset, size in zip(layout.shape, layout.offsets, layout.sizes, strict=True):
        indices = (indices[:, None] * dim + np.arange(offset, offset + size)).ravel()
    return indices


def _narrow(positions: Indices) -> npt.NDArray[np.int32] | Indices:
    """Half the memory, wherever the part has less than 2^31 elements."""
    if len(positions) and positions.max() > np.iinfo(np.int32).max:
        return positions
    return positions.astype(np.int32)
