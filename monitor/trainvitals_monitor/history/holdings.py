"""
What ranks say of their tensors, in numbers: a thousand ranks name thousands of tensors each, in nearly the same words.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from trainvitals.frame import TensorInfo

IntArray = npt.NDArray[np.int64]


KINDS = ("whole", "box", "flat", "unknown")
"""Of layouts; a number of a kind is an index of it."""
_FEW = 64
"""So many are never counted anew: with two small ranks each change would be half of all."""

Key = TypeVar("Key", bound=Hashable)


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

    @property
    def kind_of_layout(self) -> int:
        """Which of KINDS it is."""
        return KINDS.index("whole" if self.layout in ("full", "replica") else self.layout)

    @property
    def part(self) -> Hashable | None:
        """The same for those who hold the same part of a tensor; None if that is empty (more ranks than rows)."""
        if self.layout in ("full", "replica"):
            return "whole"
        return None if 0 in self.sizes else (self.layout, self.offsets, self.sizes)

    @property
    def likeness(self) -> Hashable | None:
        """What must be the same for two ranks to hold the same bits; None: nobody else can."""
        is_alone = self.layout != "unknown" and not self.replica_group
        if (not self.sizes and self.shape) or 0 in self.sizes or is_alone:
            return None
        where = (self.layout, self.replica_group, self.offsets, self.sizes)
        return (*where, self.shape, self.dtype)


class Numbers(Generic[Key]):
    """Numbers of equal keys, from 0 as they came."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._of = {key: number for number, key in enumerate(keys)}
        self._most = max(_FEW, 2 * len(self._of))

    def of(self, key: Key) -> int:
        """The key's number."""
        return self._of.setdefault(key, len(self._of))

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._of)

    @property
    def is_crowded(self) -> bool:
        """Whether there are twice as many as were in use when they were counted last."""
        return len(self._of) > self._most

    def kept(self, columns: Sequence[npt.NDArray[np.int32]]) -> Numbers[Key]:
        """Those that are in the columns (-1: none), counted anew; the columns are changed to that."""
        used = np.zeros(len(self) + 1, np.bool_)
        for column in columns:
            used[column] = True
        used[-1] = False
        fresh = np.where(used, np.cumsum(used, dtype=np.int32) - 1, -1)
        for column in columns:
            column[:] = fresh[column]
        return Numbers(key for key, number in self._of.items() if used[number])


class Holdings:
    """
    All that ranks of one attempt say of a tensor, each once: names and holdings have a number each.

    What no rank says any more is forgotten once it is half of all, so that a buffer whose shape changes at each step
    costs at the last one what it did at the first.
    """

    def __init__(self) -> None:
        self._names: Numbers[tuple[str, str, str]] = Numbers()
        self._holdings: Numbers[Holding] = Numbers()
        self._derive()

    def numbers(self, info: TensorInfo) -> tuple[int, int]:
        """The numbers of the row's names and of its holding. Cost: 2 us."""
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
        number = self._holdings.of(holding)
        if number == len(self._kinds):
            self._add(holding)
        return self._names.of((info.fqn, info.raw_fqn, info.module)), number

    @property
    def is_crowded(self) -> bool:
        """Whether half of all may be what no rank says any more."""
        return self._names.is_crowded or self._holdings.is_crowded

    def tidy(self, tables: Collection[Named]) -> None:
        """Forgets what is in none of the tables, which are all that there are, and numbers the rest anew in them."""
        if self._names.is_crowded:
            self._names = self._names.kept([table.names for table in tables])
        if self._holdings.is_crowded:
            self._holdings = self._holdings.kept([table.holding for table in tables])
            self._derive()

    def __len__(self) -> int:
        return len(self._holdings)

    @property
    def kinds(self) -> IntArray:
        """By holding, which of KINDS it is."""
        return np.array(self._kinds, np.int64)

    @property
    def parts(self) -> IntArray:
        """By holding, a number for the part; -1 if it is empty."""
        return np.array(self._parts, np.int64)

    @property
    def likenesses(self) -> IntArray:
        """By holding, a number for what must be the same for two ranks to hold the same; -1: nobody else can."""
        return np.array(self._likenesses, np.int64)

    def _derive(self) -> None:
        self._kinds, self._parts, self._likenesses = array("q"), array("q"), array("q")
        self._part_numbers: Numbers[Hashable] = Numbers()
        self._likeness_numbers: Numbers[Hashable] = Numbers()
        for holding in self._holdings:
            self._add(holding)

    def _add(self, holding: Holding) -> None:
        part, likeness = holding.part, holding.likeness
        self._kinds.append(holding.kind_of_layout)
        self._parts.append(-1 if part is None else self._part_numbers.of(part))
        self._likenesses.append(-1 if likeness is None else self._likeness_numbers.of(likeness))


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
