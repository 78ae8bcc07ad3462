"""
What a slot held before: whether somebody still holds it, although the model goes on with another tensor.

Asked of storages, not of tensors: `state_dict()` hands out aliases, and it is their memory that lives on.
"""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef

REMEMBERED = 4
"""Of those still alive; whoever holds more of them collects states on purpose."""


class Predecessors:
    """
    The storages that one slot's tensors had, oldest first; freed ones are only counted.

    Weak references to storages keep no memory, and are in nobody's way (`torch.utils.swap_tensors` asks of tensors).
    """

    __slots__ = ("_alive", "_freed", "_now")

    def __init__(self) -> None:
        self._now: StorageWeakRef | None = None
        self._alive: list[tuple[int, StorageWeakRef]] = []
        self._freed = 0

    def follow(self, tensor: torch.Tensor | None, step: int) -> None:
        """This is what the slot holds since `step`; 3 us."""
        before, self._now = self._now, None if tensor is None else _reference(tensor)
        if before is None or (self._now is not None and before.cdata == self._now.cdata):
            return
        if not _is_alive(before):
            self._freed += 1
        elif len(self._alive) <= REMEMBERED:
            self._alive.append((step, before))

    def outlived(self, step: int) -> int:
        """
        The step in which the oldest one was replaced that somebody still holds; -1 if there is none, or if that says
        nothing: of those replaced since, more must have been freed. One replaced just now may be in a local variable.
        """
        alive = [(at, storage) for at, storage in self._alive if _is_alive(storage)]
        self._freed += len(self._alive) - len(alive)
        self._alive = alive
        settled = [at for at, _ in alive if at < step]
        return settled[0] if settled and len(alive) <= self._freed else -1


def _reference(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_alive(storage: StorageWeakRef) -> bool:
    return not storage.expired()  # type: ignore[no-untyped-call]
