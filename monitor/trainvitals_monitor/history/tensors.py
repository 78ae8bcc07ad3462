"""
The tensor table of an attempt: every tensor that any rank has named, once, by canonical FQN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.contract import FLOAT_BITS
from trainvitals.fqn import fqn_pattern
from trainvitals.frame import TensorInfo
from trainvitals.roles import Role, role_of

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class TensorTable:
    """
    Columns over the tensors; lists of text, arrays of numbers. Rows are added and changed, never removed.

    `version` grows with every change, for those who keep something derived from the table.
    """

    def __init__(self) -> None:
        self.fqn: list[str] = []
        self.raw_fqn: list[str] = []
        self.pattern: list[str] = []
        self.role: list[Role] = []
        self.dtype: list[str] = []
        self.shape: list[tuple[int, ...]] = []
        self.module: list[str] = []
        self.version = 0
        self.first: list[TensorInfo] = []
        """Each tensor's row as its lowest rank said it first."""
        self._infos: list[TensorInfo] = []
        self._place: list[tuple[int, int]] = []
        self._index: dict[str, int] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self.fqn)

    def index_of(self, fqn: str) -> int | None:
        """The index of this canonical FQN, None if there is no such tensor."""
        return self._index.get(fqn)

    def put(self, info: TensorInfo, rank: int = 0) -> int:
        """Add a rank's tensor, or change its row, which is the lowest rank's; the index here, not the rank's own."""
        index = self._index.get(info.fqn)
        if index is None:
            return self._add(info, rank)
        if rank > self._place[index][0]:
            return index
        if rank < self._place[index][0]:
            self.first[index] = info
        if (rank, info.index) != self._place[index]:
            self._place[index] = (rank, info.index)
            self._changed()
        if info != self._infos[index]:
            self._infos[index] = info
            self.raw_fqn[index] = info.raw_fqn
            self.dtype[index] = info.dtype
            self.shape[index] = tuple(info.shape)
            self.module[index] = info.module
            self._changed()
        return index

    def _add(self, info: TensorInfo, rank: int) -> int:
        index = self._index[info.fqn] = len(self._infos)
        self._infos.append(info)
        self.first.append(info)
        self._place.append((rank, info.index))
        self.fqn.append(info.fqn)
        self.raw_fqn.append(info.raw_fqn)
        self.pattern.append(fqn_pattern(info.fqn))
        self.role.append(role_of(info.fqn))
        self.dtype.append(info.dtype)
        self.shape.append(tuple(info.shape))
        self.module.append(info.module)
        self._changed()
        return index

    def _changed(self) -> None:
        self.version += 1
        self._arrays.clear()

    @property
    def is_param(self) -> BoolArray:
        """Parameters; the others are buffers."""
        return self._bools("is_param", lambda info: info.kind == "param")

    @property
    def trainable(self) -> BoolArray:
        """Tensors that require a gradient."""
        return self._bools("trainable", lambda info: info.trainable)

    @property
    def persistent(self) -> BoolArray:
        """Tensors that a state dict holds (all but non-persistent buffers)."""
        return self._bools("persistent", lambda info: info.persistent)

    @property
    def numel(self) -> IntArray:
        """Elements of the full tensor."""
        return self._ints("numel", lambda info: min(math.prod(info.shape), 1 << 62))

    @property
    def float_bits(self) -> IntArray:
        """Width of the floating dtype; 64 for whatever is no float."""
        return self._ints("float_bits", lambda info: FLOAT_BITS.get(info.dtype, 64))

    @property
    def order(self) -> IntArray:
        """
        Each tensor's place in the model: by rank, then as the rank counts them (the order of registration).

        Indices follow the order in which ranks happened to speak first; this does not.
        """
        order = self._arrays.get("order")
        if order is None:
            ranks, within = np.array(self._place, np.int64).reshape(-1, 2).T
            order = np.empty(len(self._place), np.int64)
            order[np.lexsort((within, ranks))] = np.arange(len(order))
            self._arrays["order"] = order
        return order

    def mask(self, *roles: Role) -> BoolArray:
        """Tensors of any of these roles."""
        wanted = frozenset(roles)
        name = "mask:" + ",".join(sorted(wanted))
        return self._bools(name, lambda info: self.role[self._index[info.fqn]] in wanted)

    def _bools(self, name: str, ask: Callable[[TensorInfo], bool]) -> BoolArray:
        return self._array(name, np.bool_, ask)

    def _ints(self, name: str, ask: Callable[[TensorInfo], int]) -> IntArray:
        return self._array(name, np.int64, ask)

    def _array(
        self, name: str, dtype: type[Any], ask: Callable[[TensorInfo], object]
    ) -> npt.NDArray[Any]:
        array = self._arrays.get(name)
        if array is None:
            array = np.fromiter((ask(info) for info in self._infos), dtype, len(self._infos))
            array.setflags(write=False)
            self._arrays[name] = array
        return array


def names(table: TensorTable, indices: Iterable[int]) -> list[str]:
    """FQNs of these indices, "" for -1."""
    return ["" if index < 0 else table.fqn[index] for index in indices]
