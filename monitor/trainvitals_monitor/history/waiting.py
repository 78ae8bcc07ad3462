"""
What has come from the ranks and was not presented yet, and the one order in which it will be.

The order must not depend on how the network mixed the ranks' frames. So it follows from what each rank says alone: a
fact about a step that the rank had promised to be complete (`complete_through` of its frames before) is late, wherever
the other ranks are. Late facts are presented between the promised step and the one after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.frame import CheckpointSeen, Event, Header, SlotChanged, StepsAttempted, TensorInfo
from trainvitals_monitor.history.merge import Rows
from trainvitals_monitor.history.pending import Pending

if TYPE_CHECKING:
    from trainvitals_monitor.history.ranks import Ranks

EVER = 1 << 62
MERGED_AHEAD = 64
"""Steps, from the first that waits, in which a rank's rows are merged as they come: more than a frame tells of; one rank
that is further ahead of the others, as when it sends what waited on a disk, would only take memory for each."""


class LateRows(NamedTuple):
    """Rows of one table about a step that their rank had promised to be complete."""

    step: int
    table: str
    rows: Rows
    scalar_names: Sequence[str]


class Item(NamedTuple):
    """Something that was said besides rows: `position` is the step after which it comes."""

    position: int
    rank: int
    seq: int
    place: int
    what: Event | TensorInfo | LateRows


class Waiting:
    """Rows by step; events by step; what is late; rows of tensor tables that have changed."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._steps: dict[int, Pending] = {}
        self._events: list[Item] = []
        self._late: list[Item] = []
        self._changes: list[Item] = []

    # -- in --------------------------------------------------------------------------------------------------------

    def add_events(self, header: Header, promised: int) -> None:
        """The events of a frame of a rank that had promised all up to step `promised`."""
        for place, event in enumerate(header.events):
            item = Item(max(event.step, promised), header.rank, header.seq, place, event)
            # Only when all ranks are past its step have all told their part of a checkpoint.
            shared = self._world_size > 1 and isinstance(event, CheckpointSeen)
            (self._late if event.step <= promised or shared else self._events).append(item)

    def add_change(self, header: Header, after: int, info: TensorInfo) -> None:
        """A row of the rank's tensor table that is not what it was: it holds in the steps after this one."""
        self._changes.append(Item(after, header.rank, header.seq, info.index, info))

    def add_rows(
        self, header: Header, promised: int, table: str, columns: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Rows of one table, cut where the step changes."""
        steps = columns["step"]
        if not len(steps):
            return
        if steps[0] == steps[-1] and bool((steps == steps[0]).all()):
            self._add(header, promised, table, 0, columns)
            return
        bounds = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        for start, end in pairwise(bounds):
            rows = {name: values[start:end] for name, values in columns.items()}
            self._add(header, promised, table, start, rows)

    def _add(self, header: Header, promised: int, table: str, place: int, rows: Rows) -> None:
        """Rows about one step."""
        step = int(rows["step"][0])
        if step <= promised:
            late = LateRows(step, table, rows, header.scalars)
            self._late.append(Item(promised, header.rank, header.seq, place, late))
        else:
            pending = self._steps.setdefault(step, Pending())
            pending.add(header.rank, table, rows, header.scalars)

    def promised(self, rank: int, after: int, through: int, ranks: Ranks) -> None:
        """The rank has told all of the steps beyond `after`, up to `through`."""
        near = min(self._steps, default=0) + MERGED_AHEAD
        for step, pending in self._steps.items():
            if after < step <= through and step < near:
                pending.promised(rank, ranks)

    def expect(self, step: int) -> None:
        """A step that is to be presented although no rows of it will come."""
        self._steps.setdefault(step, Pending())

    # -- out -------------------------------------------------------------------------------------------------------

    def steps(self, through: int) -> list[int]:
        """Steps up to this one that have rows, ascending."""
        return sorted(step for step in self._steps if step <= through)

    def has_attempts(self) -> bool:
        """Whether steps were attempted and not made, which calls for a look even where none ever is."""
        return any(isinstance(item.what, StepsAttempted) for item in self._late)

    def take_step(self, step: int) -> Pending:
        """The rows of a step; none of one that was never made."""
        return self._steps.pop(step, None) or Pending()

    def take_events(self, through: int) -> list[Item]:
        """Events up to this step, ordered by step and rank."""
        taken, self._events = _split(self._events, lambda item: item.position <= through)
        return sorted(taken, key=lambda item: item[:4])

    def take_late(self, before: int) -> Iterator[list[Item]]:
        """
        What comes late, and before this step; what is presented together.

        With one rank each frame is looked at by itself: it may have been alone when it came.
        """
        taken, self._late = _split(self._late, lambda item: item.position < before)

        def together(item: Item) -> tuple[int, int]:
            return item.position, item.seq if self._world_size == 1 else 0

        ordered = sorted(taken, key=lambda item: (*together(item), *item[:4]))
        for _, items in groupby(ordered, key=together):
            yield list(items)

    def keep_for_first_step(self, items: Sequence[Item]) -> None:
        """Late events that come before any step was judged: they belong to the first one's look."""
        self._events += items

    def take_changes(self, before: int) -> list[Item]:
        """Changed rows of tensor tables that hold in this step, higher ranks first: the last one counts."""
        taken, self._changes = _split(self._changes, lambda item: item.position < before)
        return sorted(taken, key=lambda item: (item.position, -item.rank, item.seq, item.place))


def _split(items: list[Item], wanted: Callable[[Item], bool]) -> tuple[list[Item], list[Item]]:
    taken = [item for item in items if wanted(item)]
    return taken, [item for item in items if not wanted(item)] if taken else items


def steps_of_changes(header: Header) -> dict[int, int]:
    """
    By place in the frame's tensor table, the step of the event that the row came with; a frame may be about many steps.

    An agent tells both together, so the last row about a tensor belongs to the last event about it, and so on backwards.
    """
    events: dict[int, list[int]] = {}
    for event in header.events:
        if isinstance(event, SlotChanged):
            events.setdefault(event.tensor, []).append(event.step)
    found: dict[int, int] = {}
    for place in range(len(header.tensors) - 1, -1, -1) if events else ():
        steps = events.get(header.tensors[place].index)
        if steps:
            found[place] = steps.pop()
    return found
