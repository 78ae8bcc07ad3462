"""
One attempt of a run: frames of its ranks go in, judged steps (views) come out, in an order that no network can change.

Facts wait (see waiting.py) until every rank is past their step, merged as far as that goes without the others; then the
step is written into the window. What comes after its step is presented in a late look at the latest step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trainvitals.contract import Contract, matches
from trainvitals.frame import CheckpointSeen, Header, OptimizersSeen, StepsAttempted, TensorInfo
from trainvitals_monitor.header import contract_of
from trainvitals_monitor.history.beginning import Beginning
from trainvitals_monitor.history.by_rank import ByRank
from trainvitals_monitor.history.checkpoints import Checkpoints
from trainvitals_monitor.history.comparison import Comparison
from trainvitals_monitor.history.digests import Digests
from trainvitals_monitor.history.held import Held
from trainvitals_monitor.history.lasting import Lasting
from trainvitals_monitor.history.moved import Moved
from trainvitals_monitor.history.pending import Pending
from trainvitals_monitor.history.previous import Previous
from trainvitals_monitor.history.rank import Rank, Tables
from trainvitals_monitor.history.ranks import Ranks
from trainvitals_monitor.history.remembered import Remembered
from trainvitals_monitor.history.scalars import Scalars
from trainvitals_monitor.history.series import Window
from trainvitals_monitor.history.step import Pace, absorb
from trainvitals_monitor.history.tensors import TensorTable
from trainvitals_monitor.history.view import EventAt, View
from trainvitals_monitor.history.waiting import EVER, Item, LateRows, Waiting, steps_of_changes

T = TypeVar("T")

MAX_EVENTS = 4096


class AttemptHistory:
    """
    What is known of one attempt.

    `step` is the step judged last (`base_step` before the first), in our numbers; `step_offset` leads to the trainer's.
    """

    def __init__(self, header: Header) -> None:
        self.run = header.run
        self.key = header.attempt
        self.world_size = header.world_size
        self.started_at = header.started_at
        self.base_step = self.step = header.base_step
        self.judged_steps = 0
        self.contract = Contract()
        self.tensors = TensorTable()
        self.window = Window()
        self.scalars = Scalars()
        self.held = Held()
        self.digests = Digests()
        self.beginning = Beginning()
        self.checkpoints = Checkpoints()
        self.moved = Moved()
        self.pace = Pace()
        self.by_rank = ByRank(header.world_size)
        self.events: deque[EventAt[Any]] = deque(maxlen=MAX_EVENTS)
        self.event_counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.previous: Previous | None = None
        self.comparison: Comparison | None = None
        """The run beside its reference; None where it has none."""
        self.lasting: Lasting | None = None
        """What the store kept of steps whose frames it forgot; given before the first frame, None otherwise."""
        self._remembered: Remembered | None = None
        self.ranks = Ranks(header.world_size, self.tensors)
        self._waiting = Waiting(header.world_size)
        self._rows = Pending()
        self._contract_from = -1
        self._contract_raw: dict[str, Any] = {}
        self._cache: dict[Hashable, Any] = {}
        self.cut_through = self.base_step
        """Steps below this one have been cut off for the store (see pieces.py)."""
        self.ended = False
        """Whether the last look was made: every rank closed, or a later attempt goes on."""

    # -- frames in -------------------------------------------------------------------------------------------------

    def check(self, header: Header, tables: Tables) -> bool:
        """Whether the frame is new; changes nothing. Raises as `Ranks.check` does."""
        return self.ranks.check(header, tables)

    def ingest(self, header: Header, tables: Tables) -> bool:
        """Takes a frame, in any order; False if it came before."""
        if not self.check(header, tables):
            return False
        rank = self.ranks.get_or_make(header)
        self.started_at = min(self.started_at, header.started_at)
        for due_header, due_tables in rank.arrive(header, tables):
            self._take(rank, due_header, due_tables)
        return True

    def give_up_waiting(self) -> None:
        """Frames that are missing are taken for lost, on every rank."""
        for rank in self.ranks.values():
            while due := list(rank.skip()):
                for header, tables in due:
                    self._take(rank, header, tables)

    def remember(self, remembered: Remembered) -> None:
        """Series of steps whose rows are gone; before any step is judged."""
        self._remembered = remembered
        for step in remembered.steps.tolist():
            self._waiting.expect(step)

    def _take(self, rank: Rank, header: Header, tables: Tables) -> None:
        promised, rows_promised = rank.complete_through, rank.promised
        rank.said(header)
        self.ranks.heard(rank)
        self._declare(header)
        rank.make_room(header.tensors)
        steps = steps_of_changes(header)
        for place, info in enumerate(header.tensors):
            if not rank.named.has(info.index):
                self.ranks.place(rank, info)
            elif place in steps or not self.ranks.says(rank, info):
                after = max(rows_promised, steps.get(place, 0) - 1)
                self._waiting.add_change(header, after, info)
        for what, lost in header.dropped.items():
            self.dropped[what] += lost
        self._waiting.add_events(header, promised)
        for name, columns in tables.items():
            if name == "manifest":
                rank.add_manifest(columns)
            else:
                self._waiting.add_rows(header, rows_promised, name, columns)
        self._waiting.promised(rank.rank, rows_promised, rank.promised, self.ranks)

    def _declare(self, header: Header) -> None:
        """The contract that counts is the lowest rank's, as it said it last."""
        if not header.contract or (0 <= self._contract_from < header.rank):
            return
        self._contract_from = header.rank
        if header.contract != self._contract_raw:
            self._contract_raw = header.contract
            self.contract = contract_of(header)
            self._cache.clear()

    # -- steps out -------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether every rank has said that it is done."""
        return self.ranks.closed

    @property
    def step_offset(self) -> int | None:
        """The trainer's step number minus ours, as the lowest rank that knows it says."""
        return self.ranks.step_offset

    @property
    def has_ready(self) -> bool:
        """Whether `advance` would come to a step now."""
        return bool(self._ready(self.ranks.ready_through())) or (
            self.world_size == 1 and self._waiting.has_attempts()
        )

    def _ready(self, through: int) -> list[int]:
        """Steps up to this one; what training starts from is shown once a step was made of it (see `Rank.promised`)."""
        return self._waiting.steps(through) if through > self.base_step else []

    def advance(self, everything: bool = False) -> Iterator[View]:
        """
        Views of the steps that can be judged now, in order, and of what came late between them; at the end of the
        attempt, a last one. `everything`: wait for nobody any more.
        """
        through = EVER if everything else self.ranks.ready_through()
        for step in self._ready(through):
            yield from self._late_looks(step)
            if self.judged_steps and step <= self.step:
                # From a rank that was no longer waited for.
                self.dropped["late"] += self._waiting.take_step(step).num_rows
            else:
                yield self._step_look(step)
        ending = everything or self.closed
        if ending or self.world_size == 1:
            yield from self._late_looks(through + 1)
        if ending and not self.ended:
            self.ended = True
            yield self._look(self._waiting.take_events(EVER), late=True)

    def _step_look(self, step: int) -> View:
        for item in self._waiting.take_changes(before=step):
            if isinstance(item.what, TensorInfo):
                self.ranks.place(self.ranks[item.rank], item.what)
        self._rows = self._waiting.take_step(step)
        self.window.resize(len(self.tensors))
        self.window.begin(step)
        if self.lasting is not None:
            self.lasting.place(self)
        self.step = step
        self.judged_steps += 1
        absorb(self, self._rows, step)
        if self._remembered is not None:
            self._remembered.write(step, self.tensors, self.window, self.scalars)
        self.moved.saw(self.step, self.window)
        return self._look(self._waiting.take_events(step), late=False)

    def _late_looks(self, before: int) -> Iterator[View]:
        for items in self._waiting.take_late(before):
            if not self.judged_steps:
                self._waiting.keep_for_first_step(items)
                if any(isinstance(item.what, StepsAttempted) for item in items):
                    # It may never come: the state that training was to start from is all there is.
                    yield self._step_look(items[0].position)
                continue
            if any(isinstance(item.what, LateRows) for item in items):
                self._absorb_late(items)
            yield self._look(items, late=True)

    def _absorb_late(self, items: list[Item]) -> None:
        """Rows about the step judged last join it; of older ones only scalars are of use."""
        older: dict[int, Pending] = {}
        for item in items:
            late = item.what
            if not isinstance(late, LateRows):
                continue
            if late.step == self.step:
                self._rows.add(item.rank, late.table, late.rows, late.scalar_names)
            elif late.table == "scalars":
                rows = older.setdefault(late.step, Pending())
                rows.add(item.rank, late.table, late.rows, late.scalar_names)
            else:
                self.dropped["late"] += len(late.rows["step"])
        self.window.resize(len(self.tensors))
        absorb(self, self._rows, self.step)
        self.moved.saw(self.step, self.window)
        for step, rows in older.items():
            absorb(self, rows, step)

    def _look(self, items: list[Item], late: bool) -> View:
        self.window.resize(len(self.tensors))
        news = []
        for item in items:
            if isinstance(item.what, (LateRows, TensorInfo)):
                continue
            self.event_counts[item.what.kind] += 1
            rank = self.ranks[item.rank]
            if isinstance(item.what, CheckpointSeen):
                self.checkpoints.report(rank.reported(item.what))
                continue
            event = rank.translated(item.what)
            if isinstance(event, OptimizersSeen):
                self.held.saw(item.rank, event)
                self._cache.clear()
            news.append(EventAt(item.rank, event))
        self.events.extend(news)
        parts = self.ranks.parts if self.world_size > 1 and self.checkpoints.has_reports else None
        view = View(self, news, self.checkpoints.present(parts), late)
        if self.comparison is not None:
            self.comparison.take(view)
        return view

    # -- for views -------------------------------------------------------------------------------------------------

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """A memo that lives as long as the tensor table, the contract and the optimizers stay as they are."""
        version, value = self._cache.get(key, (-1, None))
        if version != self.tensors.version:
            value = make()
            self._cache[key] = (self.tensors.version, value)
        made: T = value
        return made

    @property
    def ignored(self) -> npt.NDArray[np.bool_]:
        """Tensors of which nothing is to be said."""
        return self.cached(("history", "ignored"), self._ignored)

    @property
    def tied_to(self) -> npt.NDArray[np.int64]:
        """Per tensor, the one that it is tied to; -1 for none."""
        return self.cached(("history", "tied"), lambda: self.ranks.ties(first=False))

    @property
    def first_tied_to(self) -> npt.NDArray[np.int64]:
        """The same, as each tensor was when it was named."""
        return self.cached(("history", "first tied"), lambda: self.ranks.ties(first=True))

    def _ignored(self) -> npt.NDArray[np.bool_]:
        ignore = self.contract.ignore
        if not ignore:
            return np.zeros(len(self.tensors), np.bool_)
        return np.array([matches(fqn, ignore) for fqn in self.tensors.fqn], np.bool_)
