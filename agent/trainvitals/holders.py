"""
Which slots hold one and the same object: more than one where tensors are tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainvitals.slot import Slot


class Holders:
    """
    Slots by the object that they held when they were judged last; asked about an object, only those that hold it now.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._by_id: dict[int, list[int]] = {}

    def of(self, tensor: torch.Tensor) -> list[int]:
        """Ascending."""
        held = self._by_id.get(id(tensor), ())
        return [index for index in held if self._slots[index].now() is tensor]

    def beside(self, slot: Slot) -> list[int]:
        """The other slots that held the same object as this one."""
        return [index for index in self._by_id.get(slot.identity, ()) if index != slot.index]

    def move(self, slot: Slot, tensor: torch.Tensor | None) -> None:
        """The slot holds this object from now on."""
        old = self._by_id.get(slot.identity, [])
        if slot.index in old:
            old.remove(slot.index)
            if not old:
                del self._by_id[slot.identity]
        slot.identity = 0 if tensor is None else id(tensor)
        if tensor is not None:
            indices = self._by_id.setdefault(slot.identity, [])
            indices.append(slot.index)
            indices.sort()
