"""
One judged step of one attempt, as a detector sees it: read-only columns over the attempt's tensors.

Every array of length n is indexed by the attempt's tensor table (`View.tensors`); events, optimizers and checkpoints
carry these indices too, not a rank's own. "No data" is NaN in `now` and `latest`, and False in `seen`. Arrays are
read-only and shared: a detector that wants to change one copies it. Steps are ours; `step_offset` leads to the
trainer's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from trainvitals.contract import Contract
from trainvitals.facts import SERIES_TABLE
from trainvitals.frame import OptimizersSeen
from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.history.comparison import Comparison
from trainvitals_monitor.history.held import Rates
from trainvitals_monitor.history.moved import Moved
from trainvitals_monitor.history.previous import Previous
from trainvitals_monitor.history.schedule import Schedule
from trainvitals_monitor.history.tensors import TensorTable

if TYPE_CHECKING:
    from trainvitals_monitor.history.attempt import AttemptHistory

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

EventT = TypeVar("EventT")
T = TypeVar("T")


@dataclass(frozen=True)
class EventAt(Generic[EventT]):
    """An event and the rank that saw it; tensor indices in the event are those of the view's tensor table."""

    rank: int
    event: EventT


class View:
    """
    What is known after step `step`, for detectors.

    A look is either the look at a step just completed, or a late one (`is_late`): the same step once more, with events
    that came after it (`events`, `new_checkpoints` hold only those).
    """

    def __init__(
        self, attempt: AttemptHistory, news: list[EventAt[Any]], saves: list[Checkpoint], late: bool
    ) -> None:
        self._attempt = attempt
        self._news = news
        self._new_checkpoints = saves
        self.is_late = late
        self.run = attempt.run
        self.attempt = attempt.key
        self.step = attempt.step
        self.base_step = attempt.base_step
        """Steps done when the agent was attached: the first step that can be judged is the next one."""
        self.step_offset = attempt.step_offset
        self.world_size = attempt.world_size
        self.tensors: TensorTable = attempt.tensors
        self.num_tensors = len(attempt.tensors)
        self.contract: Contract = attempt.contract
        self.previous: Previous | None = attempt.previous
        """The attempt before this one, None in a run's first."""
        self.moved: Moved = attempt.moved
        """Which tensors have moved in this attempt."""

    def now(self, stat: str) -> FloatArray:
        """The statistic at this step, NaN where it was not looked at (or where NaN was computed: see `seen`)."""
        return self._attempt.window.now(_known(stat), self.step)

    def seen(self, stat: str) -> BoolArray:
        """Which tensors were looked at in this step."""
        return self._attempt.window.seen_now(_known(stat), self.step)

    def window(self, stat: str, length: int) -> tuple[FloatArray, BoolArray]:
        """
        The last k <= `length` judged steps of this attempt, oldest first, this step last.

        Returns values [k, n] (NaN: no data) and seen [k, n]; no copy is made. k is smaller at the start of an attempt,
        and bounded by the memory that a run may use (256 steps at most).
        """
        return self._attempt.window.last(_known(stat), length)

    def window_steps(self, length: int) -> IntArray:
        """The steps that the rows of `window(stat, length)` are about, [k]."""
        return self._attempt.window.last_steps(length)

    def latest(self, stat: str) -> FloatArray:
        """The value at each tensor's last look in this attempt, NaN where there was none."""
        return self._attempt.window.latest(_known(stat))

    def last_seen(self, stat: str) -> IntArray:
        """The step of each tensor's last look in this attempt, -1 where there was none."""
        return self._attempt.window.last_seen(_known(stat))

    def events(self, kind: type[EventT]) -> list[EventAt[EventT]]:
        """Events of this class that are new at this look, ordered by step and rank."""
        return [at for at in self._news if isinstance(at.event, kind)]

    def past_events(self, kind: type[EventT]) -> list[EventAt[EventT]]:
        """Events of this class of the whole attempt, those new at this look included; the last 4,096 are kept."""
        return [at for at in self._attempt.events if isinstance(at.event, kind)]

    def scalar(self, name: str, length: int) -> tuple[IntArray, FloatArray]:
        """Steps and values [k] of a scalar that the trainer logged, up to this step, oldest first, k <= `length`."""
        return self._attempt.scalars.last(name, length, self.step)

    @property
    def scalar_names(self) -> list[str]:
        """Names of the scalars logged in this attempt, sorted."""
        return self._attempt.scalars.names

    @property
    def lr(self) -> FloatArray:
        """Learning rate of the group that holds each tensor now; NaN: held by none, or unknown."""
        return self._attempt.held.lr(self.num_tensors)

    def schedules(self) -> dict[int, Schedule]:
        """By tensor that an optimizer holds, how its group's learning rate began in this attempt; made at each call."""
        return self._attempt.held.schedules(self.num_tensors)

    @property
    def peak_lr(self) -> FloatArray:
        """The largest learning rate that each tensor's group has had in this attempt; made at each call."""
        return self._attempt.held.peak_lr(self.num_tensors)

    @property
    def group_rates(self) -> Rates | None:
        """Learning rates by parameter group, of the lowest rank; None while unknown. Arrays are not to be changed."""
        return self._attempt.held.group_rates()

    @property
    def lr_settled(self) -> FloatArray:
        """For how many steps the learning rate of each tensor's group has not risen; made at each call."""
        return self.step - self._attempt.held.rose(self.num_tensors)

    @property
    def weight_decay(self) -> FloatArray:
        """Weight decay of the group that holds each tensor now; NaN: held by none, or unknown; made at each call."""
        return self._attempt.held.weight_decay(self.num_tensors)

    @property
    def decayed(self) -> FloatArray:
        """The sum of learning rate x weight decay that each tensor's group has had in this attempt; made at each call."""
        return self._attempt.held.decayed(self.num_tensors, self.step)

    @property
    def held(self) -> BoolArray:
        """Which tensors an optimizer holds; all False while `optimizers` is None."""
        return self._attempt.held.mask(self.num_tensors)

    @property
    def held_by_some(self) -> BoolArray:
        """Which tensors the optimizers of some ranks hold, and those of others do not; made at each call."""
        return self._attempt.held.split(self.num_tensors)

    @property
    def optimizers(self) -> OptimizersSeen | None:
        """The optimizers as last reported, ranks merged; None while unknown."""
        return self._attempt.held.merged()

    def checkpoints(self, op: str | None = None) -> list[Checkpoint]:
        """Saves and loads of the attempt so far, oldest first (the last 32 are kept); of one `op` if given."""
        return [one for one in self._attempt.checkpoints.presented if op in (None, one.op)]

    def new_checkpoints(self) -> list[Checkpoint]:
        """Saves and loads that are new at this look, oldest first."""
        return list(self._new_checkpoints)

    def digests(self) -> dict[str, npt.NDArray[Any]] | None:
        """DIGESTS columns at this step, each of length n (`count` 0: none for this tensor); None: no rows at all."""
        return self._attempt.digests.at(self.step, self.num_tensors)

    def first_digests(self) -> dict[str, npt.NDArray[Any]] | None:
        """The same for the attempt's first step that had any; `first_digests_step` is that step."""
        return self._attempt.digests.first(self.num_tensors)

    def beginning(self) -> dict[str, npt.NDArray[Any]] | None:
        """BEGINNING columns, each of length n (`read` 0: none for this tensor); None: no rows at all."""
        return self._attempt.beginning.columns(self.num_tensors)

    @property
    def first_digests_step(self) -> int | None:
        """The step of `first_digests`."""
        return self._attempt.digests.first_step

    def by_rank(self, column: str, length: int) -> tuple[IntArray, npt.NDArray[Any], BoolArray]:
        """
        A column of facts.STEPS, INPUTS, DRAWS or WORKER_ROUNDS at the last judged steps: steps [k], oldest first, values [k, ranks],
        and whether the rank said anything of that table, [k, ranks].
        """
        return self._attempt.by_rank.last(column, length)

    @property
    def comparison(self) -> Comparison | None:
        """The run beside the good one that it is to be compared with, up to this step; None: it has no reference."""
        return self._attempt.comparison

    @property
    def ignored(self) -> BoolArray:
        """Tensors that the contract tells us to say nothing about; the engine drops them from claims by itself."""
        return self._attempt.ignored

    @property
    def tied_to(self) -> IntArray:
        """The first tensor whose very object each one shares, -1 for none; as the lowest rank says."""
        return self._attempt.tied_to

    @property
    def first_tied_to(self) -> IntArray:
        """The same [n], as each tensor was when it was named: what was one from the beginning."""
        return self._attempt.first_tied_to

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, once per attempt; made anew when the tensor table, the contract or the optimizers have changed."""
        return self._attempt.cached(key, make)


def _known(stat: str) -> str:
    if stat not in SERIES_TABLE:
        raise KeyError(f"{stat!r} is no series of facts; there are: {', '.join(SERIES_TABLE)}")
    return stat
