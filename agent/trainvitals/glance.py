"""
Which of many slots may have changed: what is compared of them lies in columns, and calls from C go through those.

A quarter of what asking slot by slot takes (`Slot.is_same`); suspects are asked so. Dtypes, shapes and flags are compared
by what torch.compile asks about a graph's inputs; it is torch's own, and where it is not there every slot is a suspect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from operator import ne
from typing import Any, cast

import torch

from trainvitals.slot import PLAIN, Slot

BLOCK = 256
"""Slots that are asked one by one when dtype, shape or flag of one of them changed, or its module's `__dict__` hides it."""

_get: Callable[..., Any] = cast(Any, dict).get


class Glance:
    """
    Over `slots`, a list that may grow. `renew` a slot that was judged anew; `outdate` when slots are in other places.

    `deaths`: where slots put their index when what they held dies.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.deaths: set[int] = set()
        self._slots = slots
        self.outdate()

    def outdate(self) -> None:
        """The columns are made anew when they are next asked."""
        self._blocks: list[_Block] | None = None
        self._block_of: dict[int, _Block] = {}
        self._others: list[int] = []

    def renew(self, slot: Slot) -> None:
        """This slot holds something else now, in the same place."""
        block = self._block_of.get(slot.index)
        if slot.is_plain != (block is not None):
            self.outdate()
        elif block is not None:
            block.renew(slot)

    def suspects(self) -> list[int]:
        """Indices of the slots that may not hold what they held, ascending. Each of them must be judged now."""
        blocks = self._made() if self._blocks is None else self._blocks
        # The copy is one step for other threads, on which tensors may die meanwhile.
        suspects = {*self._others, *self.deaths.copy()}
        suspects.update(index for block in blocks for index in block.suspects())
        return sorted(suspects)

    def _made(self) -> list[_Block]:
        plain = [slot for slot in self._slots if slot.is_plain]
        self._others = [slot.index for slot in self._slots if not slot.is_plain]
        parts = [plain[begin : begin + BLOCK] for begin in range(0, len(plain), BLOCK)]
        self._blocks = [_Block(part) for part in parts]
        self._block_of = {
            slot.index: block
            for part, block in zip(parts, self._blocks, strict=True)
            for slot in part
        }
        return self._blocks


class _Block:
    """
    Columns of some plain slots.

    A tensor's id stands for the object here: an id is only used again after a death, and of deaths the slots tell.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._indices = [slot.index for slot in slots]
        self._rows = {slot.index: row for row, slot in enumerate(slots)}
        self._owners = [slot.place.owner for slot in slots]
        self._keys = [slot.place.key for slot in slots]
        self._ids = [slot.identity for slot in slots]
        self._pointers = [0 if slot.state is None else slot.state.storage for slot in slots]
        self._kinds = [_kind(slot) for slot in slots]
        self._guards: Any = None
        # By id: a reference to a module that is gone can't be hashed.
        homes: dict[int, tuple[Callable[[], Any], set[str]]] = {}
        for slot in slots:
            home = slot.place.home
            homes.setdefault(id(home), (home, set()))[1].add(slot.place.key)
        self._homes = list(homes.values())

    def renew(self, slot: Slot) -> None:
        row, kind = self._rows[slot.index], _kind(slot)
        self._ids[row] = slot.identity
        self._pointers[row] = 0 if slot.state is None else slot.state.storage
        if kind != self._kinds[row]:
            self._kinds[row], self._guards = kind, None

    def suspects(self) -> Sequence[int]:
        found = list(map(_get, self._owners, self._keys))
        rows = set(_differing(list(map(id, found)), self._ids))
        if not all(type(found[row]) in PLAIN for row in rows):
            return self._indices
        if self._guards is None or not self._guards.check(*found):
            self._guards = _guards(found)
            return self._indices
        if self._is_shadowed():
            return self._indices
        rows.update(_differing(list(map(torch.Tensor.data_ptr, found)), self._pointers))
        return [self._indices[row] for row in rows]

    def _is_shadowed(self) -> bool:
        """Whether the `__dict__` of a module has a key of its tensors (places.py)."""
        for home, keys in self._homes:
            module = home()
            if module is not None and not module.__dict__.keys().isdisjoint(keys):
                return True
        return False


def _kind(slot: Slot) -> tuple[object, ...] | None:
    """All but the pointer."""
    return None if slot.state is None else slot.state[1:]


def _differing(now: list[int], before: list[int]) -> Iterator[int]:
    if now != before:
        yield from (row for row, differs in enumerate(map(ne, now, before)) if differs)


def _guards(tensors: list[torch.Tensor]) -> Any:
    """Whose `check` says whether tensors have these dtypes, shapes, devices and flags, 0.05 us each; None: can't be had."""
    try:
        made: Any = import_module("torch._C._dynamo.guards").TensorGuards
        return made(
            *tensors,
            dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],
            dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],
        )
    except (ImportError, AttributeError, TypeError, RuntimeError):  # a torch that has another kind
        return None
