"""
One place that holds a tensor, and whether it still holds what it held.

A slot is the same as at the last look if it holds the same object (asked of a weak reference: ids and pointers are
re-used by allocators, and a strong one would keep replaced caches alive) with the same storage pointer, dtype, device,
shape and requires_grad. Version counters are not judged: `.data.add_` and numpy writes legally leave them standing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trainvitals.cores import CorePlan
from trainvitals.layout import Layout, is_dtensor
from trainvitals.places import Place
from trainvitals.predecessors import Predecessors


class State(NamedTuple):
    """What is compared beside the object itself. Storage 0: it has none of its own that can be asked for."""

    storage: int
    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...]
    trainable: bool

    def differences(self, other: State) -> list[str]:
        """Names of the fields that differ, as SlotChanged has them."""
        pairs = zip(self._fields, self, other, strict=True)
        return [name for name, mine, its in pairs if mine != its]


class Slot:
    """
    One place, and what it held when it was last judged; `layout` and `plan` are kept here by the table.

    `is_plain`: it held a tensor with a pointer, no subclass, and none that is conjugated or negated by a mark only.
    `deaths`: where its index goes when what it held dies.
    """

    __slots__ = (
        "_home",
        "_key",
        "_owner",
        "deaths",
        "identity",
        "index",
        "is_plain",
        "layout",
        "place",
        "plan",
        "predecessors",
        "reference",
        "sharded",
        "state",
    )

    def __init__(self, index: int, place: Place, deaths: set[int]) -> None:
        self.index = index
        self.deaths = deaths
        self.reference: Callable[[], torch.Tensor | None] = _nothing
        self.identity = 0
        self.state: State | None = None
        self.sharded = False
        self.layout: Layout | None = None
        self.plan: CorePlan | None = None
        self.predecessors = Predecessors()
        self.is_plain = False
        self.move(place)

    def move(self, place: Place) -> None:
        """The slot is found there now."""
        self.place = place
        self._owner: Mapping[str, Any] = place.owner
        self._home: Callable[[], nn.Module | None] = place.home
        self._key = place.key

    def now(self) -> torch.Tensor | None:
        """The tensor that the module's attribute gives now."""
        home = self._home()
        found = None if home is None else home.__dict__.get(self._key)
        if found is None:
            found = self._owner.get(self._key)
        return found if isinstance(found, torch.Tensor) else None

    def is_same(self) -> bool:
        """Whether it holds what it held; 0.6 us."""
        home = self._home()
        found = None if home is None else home.__dict__.get(self._key)
        if found is None:
            found = self._owner.get(self._key)
        held = self.reference()
        if found is not held:
            if held is not None or isinstance(found, torch.Tensor):
                return False
            found = None  # something else than a tensor is none, as before
        state = self.state
        if found is None or state is None or not self.is_plain or type(found) not in PLAIN:
            return (None if found is None else state_of(found)) == state
        # The same pointer is the same device.
        storage, dtype, _, shape, trainable = state
        return (
            found.data_ptr() == storage
            and found.dtype is dtype
            and found.requires_grad is trainable
            and found.shape == shape
        )

    def unmoved(self) -> torch.Tensor | None:
        """
        What it holds, if it is plain, and the object and the memory that it held; None says nothing. 0.4 us, and the time
        that a dozen places in memory take.
        """
        home = self._home()
        found = None if home is None else home.__dict__.get(self._key)
        if found is None:
            found = self._owner.get(self._key)
        if not self.is_plain or found is None or found is not self.reference():
            return None
        tensor = cast(torch.Tensor, found)
        return tensor if tensor.data_ptr() == cast(State, self.state)[0] else None

    def adopt(self, tensor: torch.Tensor | None, step: int) -> None:
        """Take what is there now as right, from this step on."""
        if tensor is None:
            self.let_go()
        else:
            self.refer_to(tensor)
        self.state = None if tensor is None else state_of(tensor)
        self.sharded = tensor is not None and is_dtensor(tensor)
        self.is_plain = (
            type(tensor) in PLAIN
            and self.state is not None
            and self.state.storage != 0
            and not cast(torch.Tensor, tensor).is_conj()
            and not cast(torch.Tensor, tensor).is_neg()
        )
        self.deaths.discard(self.index)
        if self.place.kind == "buffer" and self.place.persistent:
            self.predecessors.follow(tensor if self.is_plain else None, step)

    def refer_to(self, tensor: torch.Tensor) -> None:
        """This is the object that it held."""
        self.reference = SlotReference(tensor, _tell_death)
        self.reference.slot = self

    def let_go(self) -> None:
        """Refer to no tensor."""
        self.reference = _nothing


class SlotReference(weakref.ref[torch.Tensor]):
    """A weak reference that knows whose it is, so that swaps.py can take it away for a moment."""

    __slots__ = ("slot",)
    slot: Slot


def _tell_death(reference: weakref.ref[torch.Tensor]) -> None:
    """On whichever thread the tensor dies."""
    slot = cast(SlotReference, reference).slot
    slot.deaths.add(slot.index)


def state_of(tensor: torch.Tensor) -> State:
    """What is compared of a tensor; 1 us."""
    if is_shapeless(tensor):
        return State(0, tensor.dtype, tensor.device, (), tensor.requires_grad)
    local = cast(Any, tensor)._local_tensor if is_dtensor(tensor) else tensor
    try:
        storage = local.data_ptr()
    except (
        RuntimeError,
        NotImplementedError,
    ):  # sparse, and subclasses that keep their data elsewhere
        storage = 0
    return State(storage, tensor.dtype, tensor.device, tensor.shape, tensor.requires_grad)


def is_shapeless(tensor: torch.Tensor) -> bool:
    """Whether it can't be asked for its shape: a lazy module's, or a nested tensor. There is no data about it."""
    return is_lazy(tensor) or tensor.is_nested


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Its shape; empty where it can't be asked for it."""
    return () if is_shapeless(tensor) else tuple(tensor.shape)


def words(state: State | None) -> str:
    """Dtype, shape and device, for people."""
    if state is None:
        return ""
    return f"{str(state.dtype).removeprefix('torch.')}{list(state.shape)} on {state.device}"


PLAIN = (torch.Tensor, nn.Parameter)


def _nothing() -> None:
    return None
