"""
The manifest of one save or load: what was handed over, entry by entry, and what was live at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trainvitals.places import find_places
from trainvitals.probes.checkpoint.handed import Entry, canonical
from trainvitals.probes.checkpoint.reading import (
    Digests,
    digests_of,
    live_digests,
    no_digests,
    pair_up,
)
from trainvitals.probes.checkpoint.remembered import Remembered
from trainvitals.slot import shape_of
from trainvitals.slots import SlotTable


@dataclass
class Manifest:
    """
    `keys`, `dtypes`, `shapes` and `indices` (attached tensors, -1: none) describe every entry. Numbers were read of the
    entries `measured`; the arrays are as long as that list.
    """

    keys: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    indices: list[int]
    measured: list[int] = field(default_factory=list)
    handed: Digests = field(default_factory=no_digests)
    live_digest: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    live_square_sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    stale_step: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def columns(self, number: int, step: int) -> dict[str, Any]:
        """The rows of facts.MANIFEST."""
        length = len(self.measured)
        return {
            "checkpoint": np.full(length, number),
            "entry": self.measured,
            "tensor": [self.indices[entry] for entry in self.measured],
            "step": np.full(length, step),
            **self.handed,
            "live_digest": self.live_digest,
            "live_square_sum": self.live_square_sum,
            "stale_step": self.stale_step,
        }


def describe(entries: Sequence[Entry], indices: Sequence[int]) -> Manifest:
    """What can be said without reading any element."""
    return Manifest(
        keys=[entry.key for entry in entries],
        dtypes=[str(entry.tensor.dtype).removeprefix("torch.") for entry in entries],
        shapes=[list(shape_of(entry.tensor)) for entry in entries],
        indices=list(indices),
    )


def read_save(
    slots: SlotTable,
    remembered: Remembered,
    entries: Sequence[Entry],
    indices: Sequence[int],
    step: int,
) -> Manifest:
    """
    The handed tensors beside the live ones, read now; what is live is remembered for later saves.

    The live digest is that of the live tensor cast to the saved dtype.
    """
    manifest = describe(entries, indices)
    pairs = pair_up(slots, [entry.tensor for entry in entries], indices)
    tensors = [pair.tensor for pair in pairs]
    manifest.measured = [pair.entry for pair in pairs]
    manifest.handed = digests_of([pair.part for pair in pairs], [pair.plan for pair in pairs])
    live = live_digests(slots, tensors, [pair.part.dtype for pair in pairs])
    manifest.live_digest, manifest.live_square_sum = live.cast, live.own["square_sum"]
    stale = remembered.steps_of(tensors, manifest.handed["digest"])
    manifest.stale_step = np.where(manifest.handed["digest"] == live.cast, -1, stale)
    remembered.add(step, tensors, live.own["digest"], live.own["count"])
    if not np.array_equal(live.own["digest"], live.cast):
        remembered.add(step, tensors, live.cast, live.own["count"])
    return manifest


class LoadReading:
    """
    A load, read in two halves: what is handed over before it, what is live after it.

    Here `digest` is that of the handed values cast to the dtype that they are loaded into, so that it can be compared
    with the live ones, now and at the first step.
    """

    def __init__(
        self,
        slots: SlotTable,
        entries: Sequence[Entry],
        indices: Sequence[int],
        *,
        assign: bool = False,
    ) -> None:
        self._slots = slots
        self._manifest = describe(entries, indices)
        pairs = pair_up(slots, [entry.tensor for entry in entries], indices)
        self._tensors = [pair.tensor for pair in pairs]
        self._manifest.measured = [pair.entry for pair in pairs]
        dtypes = None if assign else [_dtype_in(slots, pair.tensor) for pair in pairs]
        self._manifest.handed = digests_of(
            [pair.part for pair in pairs], [pair.plan for pair in pairs], dtypes
        )

    def finish(self, remembered: Remembered | None = None, step: int = 0) -> Manifest:
        """The manifest, once the load is over."""
        manifest, slots = self._manifest, self._slots
        live = live_digests(slots, self._tensors, [_dtype_in(slots, i) for i in self._tensors])
        manifest.live_digest, manifest.live_square_sum = live.cast, live.own["square_sum"]
        manifest.stale_step = np.full(len(self._tensors), -1)
        if remembered is not None:
            remembered.add(step, self._tensors, live.own["digest"], live.own["count"])
        return manifest


def _dtype_in(slots: SlotTable, index: int) -> torch.dtype:
    tensor = slots.tensor(index)
    return torch.float32 if tensor is None else tensor.dtype


def slots_in(module: nn.Module, slots: SlotTable) -> dict[str, int]:
    """
    The attached tensors among a module's, by raw and by canonical name within that module.

    Asked of the places, not of the tensors: it holds for sub-modules and wrappers, and after a load that assigns.
    """
    by_place = {
        (id(slot.place.owner), slot.place.key): slot.index
        for slot in slots.slots
        if slot.place.owner
    }
    found: dict[str, int] = {}
    for place in find_places([module]):
        index = by_place.get((id(place.owner), place.key))
        if index is not None:
            found.setdefault(place.fqn, index)
            found.setdefault(canonical(place.raw_fqn), index)
            found[place.raw_fqn] = index
    return found
