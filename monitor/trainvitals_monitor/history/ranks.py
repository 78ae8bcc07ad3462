"""
The ranks of one attempt: how far all of them are, and which of them hold what part of which tensor.
"""

from __future__ import annotations

import numpy as np

from trainvitals.errors import BadFrame
from trainvitals.frame import Header, TensorInfo
from trainvitals_monitor.header import MAX_TENSORS, RunConflict
from trainvitals_monitor.history.merge import Parts
from trainvitals_monitor.history.rank import IntArray, Rank, Tables, check_indices
from trainvitals_monitor.history.replicas import Copies
from trainvitals_monitor.history.tensors import TensorTable
from trainvitals_monitor.history.waiting import EVER

SILENT_STEPS = 256
"""A rank so many steps behind the others is no longer waited for: it may be gone (that it is, others report)."""


class Ranks(dict[int, Rank]):
    """Those that have spoken so far, by number; `tensors` is the attempt's table, which is changed elsewhere."""

    def __init__(self, world_size: int, tensors: TensorTable) -> None:
        super().__init__()
        self.world_size = world_size
        self._tensors = tensors
        self._parts: Parts | None = None
        self._copies: Copies | None = None

    def check(self, header: Header, tables: Tables) -> bool:
        """
        Whether the frame is new; changes nothing.

        Raises:
            RunConflict: another process has spoken as this rank.
            BadFrame: the frame contradicts earlier ones.
        """
        if header.world_size != self.world_size:
            raise BadFrame(
                f"world_size={header.world_size}, but this attempt began with {self.world_size}: "
                f"all ranks of an attempt must agree"
            )
        rank = self.get(header.rank)
        check_indices(header, tables, rank)
        if rank is None:
            return True
        if rank.process != header.process:
            raise RunConflict(
                f"another process already speaks as rank {header.rank} of attempt {header.attempt!r} of run "
                f"{header.run!r}: give each job its own run name"
            )
        if rank.has(header.seq):
            return False
        new = [info.fqn for info in header.tensors if self._tensors.index_of(info.fqn) is None]
        if len(self._tensors) + len(new) > MAX_TENSORS:
            raise BadFrame(f"more than {MAX_TENSORS} tensors in one attempt")
        return True

    def place(self, rank: Rank, info: TensorInfo) -> None:
        """A row of a rank's tensor table, new or changed, joins the attempt's."""
        self._copies = None
        index = self._tensors.put(info, rank.rank)
        if rank.place(self._tensors.shared(index, info), index):
            self._parts = None

    # -- how far they are ------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether every rank has said that it is done."""
        return len(self) == self.world_size and all(
            rank.phase == "closed" for rank in self.values()
        )

    @property
    def step_offset(self) -> int | None:
        """The trainer's step number minus ours, as the lowest rank that knows it says."""
        # Asked at every frame: no sorting, of a thousand ranks it would take as long as a look.
        known = [n for n, rank in self.items() if rank.step_offset is not None]
        return self[min(known)].step_offset if known else None

    def ready_through(self) -> int:
        """Steps up to this one can be judged: every rank is past them, or far behind."""
        if self.closed:
            return EVER
        through = [EVER if r.phase == "closed" else r.complete_through for r in self.values()]
        lowest = min(through) if len(through) == self.world_size else -1
        furthest = max([r.complete_through for r in self.values()], default=-1)
        return max(lowest, furthest - SILENT_STEPS)

    # -- who holds what --------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts | None:
        """Who holds which part of which tensor; None for a single rank."""
        if self.world_size == 1:
            return None
        if self._parts is None:
            self._parts = Parts(len(self._tensors), self._infos())
        return self._parts

    @property
    def copies(self) -> Copies | None:
        """Which ranks hold the same part of which tensor; None where no part is held twice."""
        if self.world_size == 1:
            return None
        if self._copies is None:
            base_steps = {number: rank.base_step for number, rank in self.items()}
            self._copies = Copies(len(self._tensors), self._infos(), base_steps)
        return self._copies if self._copies.any else None

    def ties(self, *, first: bool) -> IntArray:
        """Per tensor of the attempt, the one that it is tied to, now or when it was first named; -1 for none."""
        tied = np.full(len(self._tensors), -1, np.int64)
        # The lowest rank has the last word.
        for _, rank in sorted(self.items(), reverse=True):
            for index, info in rank.infos.items():
                to = rank.first_ties.get(index, -1) if first else info.tied_to
                tied[rank.translate_one(index)] = rank.translate_one(to)
        return tied

    def _infos(self) -> dict[int, dict[int, TensorInfo]]:
        return {
            number: {int(rank.to_attempt[i]): info for i, info in rank.infos.items()}
            for number, rank in self.items()
        }
