"""
One rank's side of an attempt: its own tensor table, and its frames in the order in which it made them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.errors import BadFrame
from trainvitals.frame import (
    CheckpointSeen,
    Event,
    Header,
    ModesSeen,
    OptimizersSeen,
    SlotChanged,
    TensorInfo,
)
from trainvitals_monitor.history.checkpoints import Reported
from trainvitals_monitor.history.holdings import Named

Tables = Mapping[str, Mapping[str, npt.NDArray[Any]]]
IntArray = npt.NDArray[np.int64]

MAX_HELD = 64
"""Frames that wait for one that is missing; beyond it, the missing one is taken for lost."""

NO_FRAMES = ("rows", "manifest entries")
"""What a header may say was dropped and is not counted in frames."""


class Rank:
    """
    What is known of one rank of an attempt.

    `complete_through`: facts up to this step are in; `named` is its tensor table.
    """

    def __init__(self, header: Header, floor: int = 0) -> None:
        self.rank = header.rank
        self.floor = floor
        """Frames below it that are missing will not come: they were forgotten."""
        self.process = header.process
        self.base_step = header.base_step
        self.named = Named()
        self.complete_through = -1
        self.phase = str(header.phase)
        self.sent_at = header.sent_at
        self.step_offset: int | None = None
        self.mesh = ""
        """Where it is on the trainer's mesh, in the agent's words."""
        self.plan = ""
        """How often the agent looks at what, in its own words."""
        self._order: IntArray | None = None
        self._same = False
        self._manifest: dict[int, list[Mapping[str, npt.NDArray[Any]]]] = {}
        # Agents count from 1; a frame 0 is somebody else's way of counting, and as good.
        self._next_seq = 1
        self.has_gaps = False
        """Whether frames were taken for lost: not all that the rank said is known."""
        self._held: dict[int, tuple[Header, Tables]] = {}
        self._skipped: set[int] = {0}

    @property
    def next_seq(self) -> int:
        """The number of the frame that is due."""
        return self._next_seq

    @property
    def promised(self) -> int:
        """
        No more rows will come up to this step; -1 before one was made: the state that it starts from is read just before
        it, when frames may have gone out that say that nothing is done yet.
        """
        return self.complete_through if self.complete_through > self.base_step else -1

    def has(self, seq: int) -> bool:
        """Whether this frame came already."""
        return seq in self._held or (seq < self._next_seq and seq not in self._skipped)

    def arrive(self, header: Header, tables: Tables) -> Iterator[tuple[Header, Tables]]:
        """Takes a frame that has not come before; yields the frames that are now due, in order."""
        if header.seq < self._next_seq:
            self._skipped.discard(header.seq)
            yield header, tables
            return
        self._held[header.seq] = (header, tables)
        yield from self._due()
        while self._held and self._next_seq < self.floor:
            yield from self._skip_to(min(self.floor, *self._held))
        while self._held and self._may_skip():
            yield from self.skip()

    def skip(self) -> Iterator[tuple[Header, Tables]]:
        """Gives up waiting for the missing frame; yields what follows it."""
        if self._held:
            yield from self._skip_to(min(self._held))

    def _skip_to(self, seq: int) -> Iterator[tuple[Header, Tables]]:
        self.has_gaps = True
        # Only the last ones are remembered: a frame from before them that still comes counts as a duplicate.
        self._skipped |= set(range(max(self._next_seq, seq - MAX_HELD), seq))
        self._next_seq = seq
        yield from self._due()

    def _due(self) -> Iterator[tuple[Header, Tables]]:
        while self._next_seq in self._held:
            due = self._held.pop(self._next_seq)
            self._next_seq += 1
            yield due

    def _may_skip(self) -> bool:
        """Whether the missing frames are lost: so many wait, or the sender says that it dropped as many."""
        lowest = min(self._held)
        dropped = self._held[lowest][0].dropped
        lost = sum(count for what, count in dropped.items() if what not in NO_FRAMES)
        return len(self._held) > MAX_HELD or lost >= lowest - self._next_seq

    def said(self, header: Header) -> None:
        """Takes over what a due frame's header says of the rank itself."""
        self.complete_through = max(self.complete_through, header.complete_through)
        self.sent_at = max(self.sent_at, header.sent_at)
        self.phase = header.phase
        self.mesh = header.mesh or self.mesh
        self.plan = header.about.get("plan", self.plan)
        if header.step_offset is not None:
            self.step_offset = header.step_offset

    def make_room(self, infos: Sequence[TensorInfo]) -> None:
        """Room for these tensors of the rank, before each is placed."""
        self.named.make_room(max((info.index + 1 for info in infos), default=0))

    def place(self, info: TensorInfo, numbers: tuple[int, int], index: int) -> bool:
        """The rank's tensor `info.index` is the attempt's tensor `index`; whether that changes what it is or holds."""
        self._order = None
        return self.named.put(info, numbers, index)

    def add_manifest(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Rows about entries of checkpoints; they wait for the event."""
        for number in np.unique(columns["checkpoint"]).tolist():
            mine = columns["checkpoint"] == number
            rows = {name: values[mine] for name, values in columns.items()}
            self._manifest.setdefault(number, []).append(rows)

    def reported(self, seen: CheckpointSeen) -> Reported:
        """A save or load as this rank reports it, with its manifest rows."""
        tensors, _ = self.translate(np.array(seen.tensors, np.int64))
        return Reported(self.rank, seen, tensors, self._manifest.pop(seen.number, []))

    def is_in_order(self, tensors: npt.NDArray[Any]) -> bool:
        """Whether these are all the rank's tensors in order, and the attempt counts them in the same way."""
        return self._are_all(tensors) and self._same

    def _are_all(self, tensors: npt.NDArray[Any]) -> bool:
        if len(tensors) != len(self.named):
            return False
        if self._order is None or len(self._order) != len(tensors):
            self._order = np.arange(len(tensors), dtype=np.int64)
            self._same = bool(np.array_equal(self._order, self.named.to_attempt))
        return bool(np.array_equal(self._order, tensors))

    def translate(self, tensors: npt.NDArray[Any]) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """
        The attempt's indices of these tensors of the rank, not to be changed, and which of them it has (others are -1).
        """
        if self._are_all(tensors):
            return self.named.to_attempt, self.named.to_attempt >= 0
        inside = (tensors >= 0) & (tensors < len(self.named))
        found = np.full(len(tensors), -1, np.int64)
        found[inside] = self.named.to_attempt[tensors[inside]]
        return found, found >= 0

    def translate_one(self, tensor: int) -> int:
        """The attempt's index of one tensor of the rank, -1 for none."""
        return int(self.named.to_attempt[tensor]) if 0 <= tensor < len(self.named) else -1

    def translated(self, event: Event) -> Event:
        """The event with the attempt's tensor indices; -1 for a tensor that the rank never named."""
        if isinstance(event, SlotChanged):
            untied = [self.translate_one(i) for i in event.untied]
            return replace(event, tensor=self.translate_one(event.tensor), untied=untied)
        if isinstance(event, OptimizersSeen):
            groups = [[self.translate_one(i) for i in group] for group in event.group_tensors]
            return replace(event, group_tensors=groups)
        if isinstance(event, ModesSeen):
            return replace(
                event,
                tensors=[self.translate_one(i) for i in event.tensors],
                untracked=[self.translate_one(i) for i in event.untracked],
            )
        return event


def check_indices(header: Header, tables: Tables, rank: Rank | None) -> None:
    """
    Rows must be about tensors that the rank has named. Not asked of frames that come before those with the names.

    Raises BadFrame.
    """
    if header.seq != (1 if rank is None else rank.next_seq) or (rank is not None and rank.has_gaps):
        return
    size = 0 if rank is None else len(rank.named)
    size = max([size, *(info.index + 1 for info in header.tensors)])
    for name, columns in tables.items():
        highest = int(columns["tensor"].max(initial=-1)) if "tensor" in columns else -1
        if highest >= size:
            raise BadFrame(f"table {name!r} is about tensor {highest}; the rank has named {size}")
