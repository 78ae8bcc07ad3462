"""
The ranks of one attempt: how far all of them are, and which of them hold what part of which tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trainvitals.errors import BadFrame
from trainvitals.frame import Header, TensorInfo
from trainvitals_monitor.header import MAX_TENSORS, RunConflict
from trainvitals_monitor.history.holdings import Holdings, Named
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
        # Asked at every frame, of all ranks: up to which step each one has told all, EVER once it is closed.
        self._through = np.full(world_size, -1, np.int64)
        self._furthest = -1
        self.step_offset: int | None = None
        """The trainer's step number minus ours, as the lowest rank that knows it says."""
        self._offset_from = world_size
        self._floors: dict[int, int] = {}
        self.holdings = Holdings()
        """What their tensor tables hold, in numbers."""
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

    def get_or_make(self, header: Header) -> Rank:
        """The rank that a frame is from."""
        rank = self.get(header.rank)
        if rank is None:
            rank = self[header.rank] = Rank(header, self._floors.get(header.rank, 0))
        return rank

    def forgot(self, floors: Mapping[int, int]) -> None:
        """By rank, the number below which frames that are missing were forgotten; nobody waits for them."""
        self._floors |= floors
        for number, floor in floors.items():
            if number in self:
                self[number].floor = floor

    def says(self, rank: Rank, info: TensorInfo) -> bool:
        """Whether the rank has named this tensor and says of it what it said before."""
        return rank.named.says(info, self.holdings.numbers(info))

    def place(self, rank: Rank, info: TensorInfo) -> None:
        """A row of a rank's tensor table, new or changed, joins the attempt's."""
        index = self._tensors.put(info, rank.rank)
        if rank.place(info, self.holdings.numbers(info), index):
            self._parts = self._copies = None
            if self.holdings.is_crowded:
                self.holdings.tidy(self._named().values())

    # -- how far they are ------------------------------------------------------------------------------------------

    def heard(self, rank: Rank) -> None:
        """A rank has said something of itself."""
        self._through[rank.rank] = EVER if rank.phase == "closed" else rank.complete_through
        self._furthest = max(self._furthest, rank.complete_through)
        if rank.step_offset is not None and rank.rank <= self._offset_from:
            self._offset_from, self.step_offset = rank.rank, rank.step_offset

    @property
    def closed(self) -> bool:
        """Whether every rank has said that it is done."""
        return bool(self._through.min() == EVER)

    def ready_through(self) -> int:
        """Steps up to this one can be judged: every rank is past them, or far behind."""
        lowest = int(self._through.min())
        return lowest if lowest == EVER else max(lowest, self._furthest - SILENT_STEPS)

    # -- who holds what --------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts:
        """Who holds which part of which tensor."""
        if self._parts is None:
            self._parts = Parts(len(self._tensors), self._named(), self.holdings)
        return self._parts

    @property
    def copies(self) -> Copies | None:
        """Which ranks hold the same part of which tensor; None where no part is held twice."""
        if self._copies is None:
            base_steps = {number: rank.base_step for number, rank in self.items()}
            self._copies = Copies(len(self._tensors), self._named(), self.holdings, base_steps)
        return self._copies if self._copies.any else None

    def ties(self, *, first: bool) -> IntArray:
        """Per tensor of the attempt, the one that it is tied to, now or when it was first named; -1 for none."""
        tied = np.full(len(self._tensors), -1, np.int64)
        # The lowest rank has the last word.
        for _, rank in sorted(self.items(), reverse=True):
            named = rank.named
            to = named.first_tied_to if first else named.tied_to
            own = np.flatnonzero(named.holding >= 0)
            tied[named.to_attempt[own]] = rank.translate(to[own])[0]
        return tied

    @property
    def is_settled(self) -> bool:
        """Whether it is known who holds what, from the step judged last: asking for it costs nothing."""
        return self._parts is not None and self._copies is not None

    def _named(self) -> dict[int, Named]:
        return {number: rank.named for number, rank in self.items()}
