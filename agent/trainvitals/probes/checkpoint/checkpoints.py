"""
The checkpoint probe: a manifest of every save and load that the trainer makes, seen from inside the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trainvitals.frame import CheckpointSeen
from trainvitals.probes.checkpoint.handed import (
    Entry,
    LiveIndex,
    canonical,
    entries_of,
    has_optimizer_state,
    state_dict_entries,
    state_name,
)
from trainvitals.probes.checkpoint.manifest import (
    LoadReading,
    Manifest,
    describe,
    read_save,
    slots_in,
)
from trainvitals.probes.checkpoint.pace import Pace
from trainvitals.probes.checkpoint.reading import is_readable_now, live_digests
from trainvitals.probes.checkpoint.remembered import Remembered
from trainvitals.probes.checkpoint.targets import WATCH
from trainvitals.probes.checkpoint.watch import Call, Finish
from trainvitals.probes.probe import Look, Probe, samples, tell_digests
from trainvitals.record import Record
from trainvitals.slots import SlotTable
from trainvitals.unregistered import saved_in

FREE_CALLS = 256
FREE_FOREIGN_LOADS = 16
FOREIGN_PAUSE_S = 60.0


class Checkpoints(Probe):
    """
    Reports saves and loads of the attached models as CheckpointSeen events and rows of facts.MANIFEST.

    `start()` installs the watch (process-wide, reference-counted), takes the digests that the attempt begins with, and
    hands over the loads that happened before. `close()` gives back what was patched, once nobody else uses it.
    `step_now()` is the number of steps done: what happens now is labelled with it. The guard takes every call that
    comes from inside a save or load.

    Save: read before anything is written, on the caller's thread. `stale_step` is set where an entry equals what its
    tensor was at an earlier moment (the attempt's beginning, the last saves and loads) and not what it is now. No event
    is made of saves that hold none of the attached tensors nor an optimizer's state (one tensor by itself). An entry's
    `live_keys` is the name that the attached model's `state_dict()` would give it now, "" for none of ours. Buffers that
    are not in the save have their digests reported.
    Load: `digest` is that of the handed values in the dtype they are loaded into, `live_digest` that of the live tensor
    right after the load; before the next step the digests of all tensors are reported once more, labelled with the
    step that training goes on from. Loads into modules that are not attached are `foreign` and carry keys only. A DCP
    load of a Stateful is two loads: of the dict it hands out, and (Module.load_state_dict) of the model itself.
    Numbers are only read on the trainer's thread; a save on another one gives keys alone, and a DCP save there nothing
    (it is the upload that async_save started, seen already). All of this is local: no collective, no device copy but
    of cores.

    Cost: within the save or load, some 0.2 ms a tensor whatever its size (2 digests of at most 4,096 elements), and at
    `start` about half of that; nothing per step. A trainer that saves or loads all the time is followed less closely:
    after 256 calls, at most one in a second and 5 % of its time.
    """

    name = "checkpoint"

    def __init__(
        self,
        slots: SlotTable,
        record: Record,
        step_now: Callable[[], int],
    ) -> None:
        self._slots = slots
        self._record = record
        self._step_now = step_now
        self._remembered = Remembered()
        self._thread = threading.get_ident()
        self._started = False
        self._loaded = False
        self._number = 0
        self._reported = {"save": 0, "load": 0}
        self._passed_over = 0
        self._pace = Pace(FREE_CALLS)
        self._foreign_pace = Pace(FREE_FOREIGN_LOADS, FOREIGN_PAUSE_S)

    def start(self) -> None:
        """Begin to watch; report the loads that the journal has of these models."""
        if self._started:
            return
        self._started = True
        WATCH.hold()
        with torch.no_grad():
            self._remember_beginning()
            for call, manifest in WATCH.journal.claim(self._slots):
                self._report(call, manifest)
        WATCH.listen(self)

    def close(self) -> None:
        """Stop watching; the last one to do so restores what was patched."""
        if self._started:
            self._started = False
            WATCH.unlisten(self)
            WATCH.release()

    def touched(self) -> list[str]:
        """What of other libraries is replaced now."""
        return WATCH.touched() if self._started else []

    def coverage(self) -> dict[str, Any]:
        """Saves and loads of a model's state that were reported, those that were passed over, and what is watched."""
        return {
            "saves": self._reported["save"],
            "loads": self._reported["load"],
            "passed_over": self._passed_over,
            "watched": WATCH.touched(),
            "awaited": WATCH.awaited(),
            "absent": WATCH.absent(),
        }

    def before_step(self, look: Look) -> None:
        """After a load: the state that training really goes on from."""
        self._thread = threading.get_ident()
        if not self._loaded:
            return
        self._loaded = False
        if look.first:  # the updates probe reports the attempt's first state
            return
        self._digest(range(len(look.slots)), look.step - 1)

    def look(self, call: Call) -> Finish | None:
        """A listener's look (see watch.py): called from inside each save and load of this process."""
        look = self._look_at_save if call.op == "save" else self._look_at_load
        finish = self.guarded(self.name, look, call)
        if finish is None:
            return None
        return lambda finished: self.guarded(self.name, finish, finished)

    def _look_at_save(self, call: Call) -> Finish | None:
        on_thread = threading.get_ident() == self._thread
        if not on_thread and call.api.startswith("torch.distributed"):
            return None
        if not self._pace.is_due():
            self._passed_over += 1
            return None
        with self._pace, torch.no_grad():
            entries = entries_of(call.handed)
            indices = LiveIndex(self._slots).match(entries) if entries else []
            optimizer = has_optimizer_state(call.handed)
            others = saved_in(call.handed, self._slots.unregistered)
            if all(index < 0 for index in indices):
                if not (optimizer or others):
                    return None
                none = describe([], [])
                return lambda finished: self._report(finished, none, False, optimizer, others)
            if on_thread and is_readable_now():
                step = self._step_now()
                manifest = read_save(self._slots, self._remembered, entries, indices, step)
                self._digest(self._left_out(indices), step)
            else:
                manifest = describe(entries, indices)
        return lambda finished: self._report(finished, manifest, False, optimizer, others)

    def _look_at_load(self, call: Call) -> Finish | None:
        if call.module is None:
            return self._finish_dcp_load
        inside = slots_in(call.module, self._slots)
        if not inside:
            return self._look_at_foreign(call, state_dict_entries)
        call.taken = self._loaded = True
        if not self._pace.is_due():
            self._passed_over += 1
            return None
        with self._pace, torch.no_grad():
            entries = state_dict_entries(call.handed)
            indices = [
                inside.get(entry.key, inside.get(canonical(entry.key), -1)) for entry in entries
            ]
            if not self._may_read():
                manifest = describe(entries, indices)
                return lambda finished: self._report(finished, manifest)
            reading = LoadReading(self._slots, entries, indices, assign=call.assign)
        return lambda finished: self._finish_load(finished, reading)

    def _finish_load(self, call: Call, reading: LoadReading) -> None:
        with self._pace, torch.no_grad():
            manifest = reading.finish(self._remembered, self._step_now())
        self._report(call, manifest)

    def _finish_dcp_load(self, call: Call) -> None:
        """DCP has filled the handed tensors in place: ours, if they lie where ours lie."""
        if not self._may_read():
            return
        entries = entries_of(call.handed)
        live = LiveIndex(self._slots)
        if not live.holds_storage_of(entries):
            finish = self._look_at_foreign(call, entries_of)
            if finish is not None:
                finish(call)
            return
        call.taken = self._loaded = True
        if not self._pace.is_due():
            self._passed_over += 1
            return
        with self._pace, torch.no_grad():
            reading = LoadReading(self._slots, entries, live.match(entries))
            manifest = reading.finish(self._remembered, self._step_now())
        self._report(call, manifest)

    def _look_at_foreign(
        self, call: Call, entries_in: Callable[[Any], Sequence[Entry]]
    ) -> Finish | None:
        if not self._foreign_pace.is_due():
            self._passed_over += 1
            return None
        with self._foreign_pace:
            entries = entries_in(call.handed)
            manifest = describe(entries, [-1] * len(entries))
        return lambda finished: self._report(finished, manifest, foreign=True)

    def _left_out(self, saved: Sequence[int]) -> list[int]:
        """Buffers that a save does not hold: the next attempt's are compared with what they were."""
        if sum(index >= 0 for index in saved) < 2:
            return []
        left = set(range(len(self._slots))).difference(saved)
        return sorted(i for i in left if self._slots.slots[i].place.kind == "buffer")

    def _digest(self, indices: Sequence[int], step: int) -> None:
        """The digests of these tensors as they are now, labelled with this step."""
        for sample in samples(self._slots, indices):
            tell_digests(self._record, sample, step)

    def _may_read(self) -> bool:
        return threading.get_ident() == self._thread and is_readable_now()

    def _remember_beginning(self) -> None:
        """The live digests at attach, in their own dtype and in bfloat16: what a cached dict may hold for ever."""
        indices = [index for index in range(len(self._slots)) if self._slots.readable(index)]
        wide = (torch.float32, torch.float64)
        dtypes = [
            torch.bfloat16 if tensor is not None and tensor.dtype in wide else torch.float32
            for tensor in map(self._slots.tensor, indices)
        ]
        live = live_digests(self._slots, indices, dtypes)
        step, counts = self._step_now(), live.own["count"]
        self._remembered.add(step, indices, live.own["digest"], counts, first=True)
        self._remembered.add(step, indices, live.cast, counts, first=True)

    def _report(
        self,
        call: Call,
        manifest: Manifest,
        foreign: bool = False,
        optimizer: bool = False,
        unregistered: Sequence[str] = (),
    ) -> None:
        step, number = self._step_now(), self._number
        self._number += 1
        ours = [index for index in manifest.indices if index >= 0]
        is_model = len(ours) > 1 or len(ours) == len(self._slots)
        self._reported[call.op] += is_model
        self._record.event(
            CheckpointSeen(
                number=number,
                op=call.op,
                api=call.api,
                step=step,
                path=call.path,
                keys=manifest.keys,
                tensors=manifest.indices,
                dtypes=manifest.dtypes,
                shapes=manifest.shapes,
                live_keys=self._live_keys(manifest.indices) if ours else [],
                missing=call.missing,
                unexpected=call.unexpected,
                failed=call.failed,
                foreign=foreign,
                is_model=is_model,
                has_optimizer=optimizer,
                unregistered=list(unregistered),
            )
        )
        if manifest.measured:
            self._record.add("manifest", **manifest.columns(number, step))

    def _live_keys(self, indices: Sequence[int]) -> list[str]:
        return [state_name(self._slots.raw_fqn(index)) if index >= 0 else "" for index in indices]
