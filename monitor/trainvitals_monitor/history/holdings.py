"""
What ranks say of their tensors, in numbers: a thousand ranks name thousands of tensors each, in nearly the same words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.frame import TensorInfo

IntArray = npt.NDArray[np.int64]


class Holding(NamedTuple):
    """A row of a rank's tensor table without its names: what kind of tensor it is, and which part the rank holds."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    trainable: bool
    persistent: bool
    layout: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    replica_group: str


class Holdings:
    """All that ranks of one attempt said of a tensor, each once: names and holdings have a number each."""

    def __init__(self) -> None:
        self.known: list[Holding] = []
        """Holdings by number."""
        self._holdings: dict[Holding, int] = {}
        self._names: dict[tuple[str, str, str], int] = {}

    def numbers(self, info: TensorInfo) -> tuple[int, int]:
        """The numbers of the row's names and of its holding. Cost: 2 us."""
        names = (info.fqn, info.raw_fqn, info.module)
        holding = Holding(
            info.kind,
            info.dtype,
            tuple(info.shape),
            info.trainable,
            info.persistent,
            info.layout,
            tuple(info.offsets),
            tuple(info.sizes),
            info.replica_group,
        )
        number = self._holdings.setdefault(holding, len(self.known))
        if number == len(self.known):
            self.known.append(holding)
        return self._names.setdefault(names, len(self._names)), number


class Named:
    """
    The tensor table of one rank: arrays over its own indices, 20 bytes a row.

    `to_attempt[i]`: the attempt's index of the rank's tensor i, -1 for none, as `holding[i]` is; `tied_to` and
    `first_tied_to` are the rank's indices.
    """

    def __init__(self) -> None:
        self.to_attempt: IntArray = np.empty(0, np.int64)
        self.names = np.empty(0, np.int32)
        self.holding = np.empty(0, np.int32)
        self.tied_to = np.empty(0, np.int32)
        self.first_tied_to = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self.to_attempt)

    def make_room(self, length: int) -> None:
        """Room for so many rows."""
        more = length - len(self)
        if more > 0:
            for column in vars(self):
                padded = np.pad(getattr(self, column), (0, more), constant_values=-1)
                setattr(self, column, padded)

    def has(self, tensor: int) -> bool:
        """Whether the rank has named it."""
        return bool(self.holding[tensor] >= 0)

    def says(self, info: TensorInfo, numbers: tuple[int, int]) -> bool:
        """Whether the row is what it was."""
        i = info.index
        return bool(
            self.names[i] == numbers[0]
            and self.holding[i] == numbers[1]
            and self.tied_to[i] == info.tied_to
        )

    def put(self, info: TensorInfo, numbers: tuple[int, int], index: int) -> bool:
        """A row, new or changed, of the attempt's tensor `index`; whether more than a tie is other than before."""
        i = info.index
        if not self.has(i):
            self.first_tied_to[i] = info.tied_to
        is_other = (int(self.names[i]), int(self.holding[i])) != numbers
        self.names[i], self.holding[i] = numbers
        self.tied_to[i] = info.tied_to
        self.to_attempt[i] = index
        return is_other

    def by_tensor(self, num_tensors: int, of_holding: IntArray) -> IntArray:
        """What `of_holding` says of each of the attempt's tensors as this rank holds it; -1 where it doesn't."""
        made = np.full(num_tensors, -1, np.int64)
        known = self.holding >= 0
        made[self.to_attempt[known]] = of_holding[self.holding[known]]
        return made


class Numbered:
    """
    Numbers of equal keys: within each tensor those of the ranks are counted from 0, -1 has no number.

    Args:
        keys: [rank, tensor], ranks ascending.

    Attributes:
        within: [rank, tensor], the number of each key among those of its tensor, in no order that means anything.
        is_first: [rank, tensor], whether no lower rank has the same.
        counts: [tensor], how many there are.

    Cost: 50 ns a key, half of it for sorting.
    """

    def __init__(self, keys: IntArray) -> None:
        by_tensor = np.ascontiguousarray(keys.T)
        order = np.argsort(by_tensor, axis=1, kind="stable")
        ordered = np.take_along_axis(by_tensor, order, axis=1)
        new = ordered >= 0
        new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        number = np.cumsum(new, axis=1, dtype=np.int32) - 1
        self.counts: IntArray = new.sum(axis=1)
        within = np.empty(by_tensor.shape, np.int32)
        first = np.empty(by_tensor.shape, np.bool_)
        np.put_along_axis(within, order, number, axis=1)
        np.put_along_axis(first, order, new, axis=1)
        self.within: npt.NDArray[np.int32] = np.ascontiguousarray(within.T)
        self.within[keys < 0] = -1
        self.is_first: npt.NDArray[np.bool_] = np.ascontiguousarray(first.T)
