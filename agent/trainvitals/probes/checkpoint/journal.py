"""
Loads that happened before anybody attached: the usual order on a resume is build, load, attach.

The journal listens like an agent does, and keeps of each load its manifest and a weak reference to the module. When an
agent attaches to that module (or to one around it, or in it), the load is handed over.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from trainvitals.cores import plan_cores
from trainvitals.layout import layout_of, local_part
from trainvitals.probes.checkpoint.handed import (
    Entry,
    LiveIndex,
    Storage,
    canonical,
    entries_of,
    state_dict_entries,
    storage_of,
)
from trainvitals.probes.checkpoint.manifest import LoadReading, Manifest, describe, slots_in
from trainvitals.probes.checkpoint.pace import Pace
from trainvitals.probes.checkpoint.reading import digests_of, is_readable_now
from trainvitals.slots import SlotTable

if TYPE_CHECKING:
    from trainvitals.probes.checkpoint.watch import Call, Finish

MAX_ENTRIES = 50_000
"""Entries of all remembered loads together; beyond it the oldest load is forgotten. About 300 bytes each."""
FREE_LOADS = 64


@dataclass(frozen=True)
class Loaded:
    """
    A load that no attached model took.

    `names` are the canonical names under which its entries were read, `whole` says of each measured one that every
    element was read, so that its digest holds under any name. `module` is None for a DCP load: it fills tensors in
    place, and `storages` say where they lie.
    """

    call: Call
    manifest: Manifest
    names: list[str]
    whole: list[bool]
    module: weakref.ref[nn.Module] | None = None
    storages: tuple[Storage | None, ...] = ()


class Journal:
    """
    The loads of this process that nobody has claimed. Cost: cores of what is loaded, about 0.2 ms a tensor.

    A trainer that loads all the time (a target network at each step) is followed less and less closely.
    """

    def __init__(self) -> None:
        self._loads: list[Loaded] = []
        self._pace = Pace(FREE_LOADS)

    def __len__(self) -> int:
        return len(self._loads)

    def forget(self) -> None:
        """Drop every remembered load, and follow the next ones closely, as at the start."""
        self._loads.clear()
        self._pace = Pace(FREE_LOADS)

    def look(self, call: Call) -> Finish | None:
        """A listener's look: at loads that no agent has taken."""
        if call.op != "load" or call.taken or not is_readable_now() or not self._pace.is_due():
            return None
        if call.module is None:
            return self._keep_storages
        with self._pace, torch.no_grad():
            entries = state_dict_entries(call.handed)
            table = SlotTable([call.module])
            table.let_go()  # the load may want to swap tensors, and identity is not asked here
            inside = slots_in(call.module, table)
            indices = [
                inside.get(entry.key, inside.get(canonical(entry.key), -1)) for entry in entries
            ]
            reading = LoadReading(table, entries, indices, assign=call.assign)
        return lambda finished: self._keep_module(finished, table, reading)

    def claim(self, slots: SlotTable) -> list[tuple[Call, Manifest]]:
        """
        The loads into these slots, oldest first, with the slots' indices in their manifests; they are forgotten here.

        Entries of large tensors that were read under another name than the slot has now carry no numbers.
        """
        claimed, left = [], []
        index = LiveIndex(slots)
        for loaded in self._loads:
            indices = _indices(loaded, slots, index)
            if any(i >= 0 for i in indices):
                claimed.append((loaded.call, _as_slots(loaded, slots, indices)))
            elif loaded.module is None or loaded.module() is not None:
                left.append(loaded)
        self._loads = left
        return claimed

    def _keep_module(self, call: Call, table: SlotTable, reading: LoadReading) -> None:
        module = call.module
        if module is None:
            return
        with self._pace, torch.no_grad():
            manifest = reading.finish()
            names = [table.fqn(i) if i >= 0 else "" for i in manifest.indices]
            whole = [table.plan(manifest.indices[k]).is_whole for k in manifest.measured]
        self._keep(Loaded(_light(call), manifest, names, whole, weakref.ref(module)))

    def _keep_storages(self, call: Call) -> None:
        if call.taken or call.failed:
            return
        with self._pace, torch.no_grad():
            entries = entries_of(call.handed)
            manifest, whole = _read_alone(entries)
            storages = tuple(storage_of(entry.tensor) for entry in entries)
            names = [canonical(entry.path[-1]) for entry in entries]
        self._keep(Loaded(_light(call), manifest, names, whole, storages=storages))

    def _keep(self, loaded: Loaded) -> None:
        alive = [
            other for other in self._loads if other.module is None or other.module() is not None
        ]
        self._loads = [*alive, loaded]
        while len(self._loads) > 1 and sum(len(one.names) for one in self._loads) > MAX_ENTRIES:
            self._loads.pop(0)


def _light(call: Call) -> Call:
    """The call without the user's objects."""
    return replace(call, handed=None, module=None)


def _read_alone(entries: Sequence[Entry]) -> tuple[Manifest, list[bool]]:
    """A DCP load has filled these tensors; whose they are is not known, but for their names and where they lie."""
    manifest = describe(entries, [-1] * len(entries))
    parts, plans = [], []
    for position, entry in enumerate(entries):
        if storage_of(entry.tensor) is None:
            continue
        plan = plan_cores(canonical(entry.path[-1]), layout_of(entry.tensor), _device(entry.tensor))
        if plan.count:
            manifest.measured.append(position)
            parts.append(local_part(entry.tensor))
            plans.append(plan)
    manifest.handed = digests_of(parts, plans)
    manifest.live_digest = manifest.handed["digest"]
    manifest.live_square_sum = manifest.handed["square_sum"]
    manifest.stale_step = np.full(len(parts), -1)
    return manifest, [plan.is_whole for plan in plans]


def _device(tensor: torch.Tensor) -> torch.device:
    return local_part(tensor).device


def _indices(loaded: Loaded, slots: SlotTable, index: LiveIndex) -> list[int]:
    if loaded.module is None:
        found = [index.at(storage) for storage in loaded.storages]
        return [
            i if i >= 0 and _alike(slots.fqn(i), name) else -1
            for i, name in zip(found, loaded.names, strict=True)
        ]
    module = loaded.module()
    inside = {} if module is None else slots_in(module, slots)
    return [inside.get(name, -1) for name in loaded.names]


def _alike(fqn: str, name: str) -> bool:
    """Memory is used again; the same place under a name that fits is the same tensor."""
    return fqn == name or fqn.endswith(f".{name}") or name.endswith(f".{fqn}")


def _as_slots(loaded: Loaded, slots: SlotTable, indices: list[int]) -> Manifest:
    manifest = loaded.manifest
    keep = np.array(
        [
            indices[entry] >= 0 and (whole or slots.fqn(indices[entry]) == loaded.names[entry])
            for entry, whole in zip(manifest.measured, loaded.whole, strict=True)
        ],
        np.bool_,
    )
    return replace(
        manifest,
        indices=indices,
        measured=[entry for entry, kept in zip(manifest.measured, keep, strict=True) if kept],
        handed={name: values[keep] for name, values in manifest.handed.items()},
        live_digest=manifest.live_digest[keep],
        live_square_sum=manifest.live_square_sum[keep],
        stale_step=manifest.stale_step[keep],
    )
