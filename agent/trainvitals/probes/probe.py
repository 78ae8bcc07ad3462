"""
What a probe is: one kind of fact, read around an optimizer step.

A probe measures and never judges. It holds no hooks: the clock says when (`agent.py` calls `before_step` from a
global optimizer pre-hook and `after_step` once all optimizers of the round have stepped), the budget says which
tensors (`Choice`), and the record takes what was measured.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.cores import CorePlan, cut_many, digest_many

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from trainvitals.record import Record
    from trainvitals.slots import SlotTable

Guarded = Callable[..., Any]
"""`guarded(part, function, *args)`, the agent's guard."""


def _unguarded(_part: str, function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


Kind = Literal["identity", "cores", "sweep", "gradients"]
"""The looks that the budget plans: the fields of a Choice."""

PART_ELEMENTS = 1 << 20
"""
Elements whose cores are cut together, 4 MB of float32: two cuts of all tensors at a time would be twice what is kept.
"""
TENSOR_ELEMENTS = 256
"""What a tensor of any size counts as beside its elements: the objects that its cut is made of take memory too."""


@dataclass(frozen=True)
class Choice:
    """
    What to look at in one round: indices of tensors, ascending.

    `identity`: is the slot what it was; `cores`: cut the cores (values, updates; the whole tensor if small); `sweep`:
    read every element of large ones; `gradients`: read the gradient before the step; `digests`: of `cores`, those to
    digest. `walk`: look for slots anew; `counters`: read the optimizers' step counters.
    """

    identity: Sequence[int] = ()
    cores: Sequence[int] = ()
    sweep: Sequence[int] = ()
    gradients: Sequence[int] = ()
    digests: Sequence[int] = ()
    walk: bool = False
    counters: bool = False


@dataclass(frozen=True)
class Sample:
    """
    The cores of some tensors at one moment, cut once and shared by the probes of a look.

    `indices[k]` is the tensor whose elements are `values[k]` (1-D, in the tensor's dtype) at `plans[k]`'s positions.
    Tensors that can't be cut (gone, sparse, on the meta device, of unknown dtype class) are not in it.
    """

    indices: list[int]
    values: list[torch.Tensor]
    plans: list[CorePlan]

    def only(self, indices: Sequence[int]) -> Sample:
        """The part of it that is about these tensors."""
        wanted = set(indices)
        rows = [row for row, index in enumerate(self.indices) if index in wanted]
        return Sample(
            [self.indices[row] for row in rows],
            [self.values[row] for row in rows],
            [self.plans[row] for row in rows],
        )


@dataclass
class Look:
    """
    One moment at which probes may look: just before an optimizer's step, or after a round of them.

    `step` is the number of the step that is being made, the same before and after it. `first`: it is the attempt's
    first; its `before_step` sees the state that training starts from. `optimizers`: those about to step now, or, after
    the round, all that stepped in it; never containers. One Look serves all probes.
    """

    step: int
    slots: SlotTable
    record: Record
    choice: Choice
    optimizers: Sequence[Optimizer] = ()
    first: bool = False
    _sample: Sample | None = field(default=None, init=False, repr=False)

    def in_parts(self) -> list[Sequence[int]]:
        """The chosen cores, split as they are to be cut."""
        return list(split(self.slots, self.choice.cores))

    def at(self, cores: Sequence[int]) -> Look:
        """The same look at some of the chosen cores only."""
        chosen = self.choice
        if len(cores) == len(chosen.cores):
            return self
        digests = cores
        if chosen.digests is not chosen.cores:
            among = set(chosen.digests)
            digests = [index for index in cores if index in among]
        return replace(self, choice=replace(chosen, cores=cores, digests=digests))

    @property
    def sample(self) -> Sample:
        """The chosen tensors' cores now; cut at the first call (a few us a tensor) and kept as long as the look is."""
        if self._sample is None:
            self._sample = cut_sample(self.slots, self.choice.cores)
        return self._sample

    def add(self, table: str, tensors: Sequence[int] | npt.NDArray[Any], **columns: Any) -> None:
        """Rows about `tensors` at this step; nothing if there are none."""
        if len(tensors):
            steps = np.full(len(tensors), self.step, np.int64)
            self.record.add(table, tensor=tensors, step=steps, **columns)


def split(slots: SlotTable, indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of `indices`, in their order, whose cores take a few megabytes; 0.3 us a tensor."""
    begin = size = 0
    for end, index in enumerate(indices):
        if size > PART_ELEMENTS:
            yield indices[begin:end]
            begin, size = end, 0
        size += TENSOR_ELEMENTS + slots.plan(index).count
    if indices:
        yield indices[begin:]


def samples(slots: SlotTable, indices: Sequence[int]) -> Iterator[Sample]:
    """The cores of all these tensors, cut part by part: for who keeps less of them than they take."""
    for part in split(slots, indices):
        yield cut_sample(slots, part)


def cut_sample(slots: SlotTable, indices: Sequence[int]) -> Sample:
    """The cores of these tensors as they are now, without those that can't be cut."""
    if not indices:
        return Sample([], [], [])
    there, parts = slots.parts(indices)
    plans = [slots.plan(index) for index in there]
    cuts = cut_many(parts, plans)
    kept = [row for row, plan in enumerate(plans) if _says_something(cuts[row], plan)]
    if len(kept) == len(there):
        return Sample(there, cuts, plans)
    return Sample(
        [there[row] for row in kept], [cuts[row] for row in kept], [plans[row] for row in kept]
    )


def tell_digests(record: Record, sample: Sample, step: int) -> None:
    """A row for each of these cores: the state after this step."""
    if sample.indices:
        steps = np.full(len(sample.indices), step, np.int64)
        columns = digest_many(sample.values, sample.plans)
        record.add("digests", tensor=sample.indices, step=steps, **columns)


def _says_something(values: torch.Tensor, plan: CorePlan) -> bool:
    """An empty shard is data (its sums are 0); what could not be read, or means nothing by itself, is not."""
    return values.numel() == plan.count and (plan.count > 0 or plan.layout.kind != "unknown")


@dataclass
class Rested:
    """Rounds in which nobody looked, and how many of them each optimizer stepped in."""

    rounds: int = 0
    steps: WeakKeyDictionary[Optimizer, int] = field(default_factory=WeakKeyDictionary)

    def add(self, rounds: int, optimizers: Sequence[Optimizer]) -> None:
        """More rounds, in each of which these stepped."""
        self.rounds += rounds
        self._count(rounds, optimizers)

    def join(self, other: Rested) -> None:
        """The rounds of both."""
        self.rounds += other.rounds
        for optimizer, steps in other.steps.items():
            self._count(steps, (optimizer,))

    def _count(self, steps: int, optimizers: Sequence[Optimizer]) -> None:
        for optimizer in optimizers:
            self.steps[optimizer] = self.steps.get(optimizer, 0) + steps


class Probe(ABC):
    """
    One kind of fact. `name` is what a failure is reported under; `kind` tells the budget what its time was spent on
    ("" for what it does not plan). A probe that raises is switched off by the agent's guard, the others go on.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind | Literal[""]] = ""
    guarded: Guarded = staticmethod(_unguarded)
    """What a hook of the probe's own goes through; the agent sets it."""

    def attached(self, slots: SlotTable) -> None:  # noqa: B027  (doing nothing is a fine answer)
        """Called once, before any step, with the models as they were attached."""

    def before_step(self, look: Look) -> None:  # noqa: B027
        """Called on the trainer's thread before each optimizer's step, gradients in place; no grad mode is set."""

    def after_step(self, look: Look) -> None:  # noqa: B027
        """Called on the trainer's thread when all optimizers of the round have stepped."""

    def after_cut(self, look: Look) -> None:  # noqa: B027
        """
        Called after everyone's `after_step`, as often as the chosen cores have parts: `look.choice.cores` is the part, and
        `look.sample` are its cores, gone when the next part is cut.
        """

    def rest(self, step: int) -> None:  # noqa: B027
        """
        Called before the first step of a round in which nobody looks, and `before_step` and `after_step` are not; for
        what is counted. Short steps rest for the sake of their time: a microsecond, no more.
        """

    def is_idle(self) -> bool:
        """Whether `rest` would do nothing more in the rests that follow; asked only after one, which has called it."""
        return False

    def rest_step(self, step: int, optimizers: Sequence[Optimizer]) -> None:  # noqa: B027
        """The same before each optimizer's step of such a round."""

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: B027
        """
        Called when such rounds are over, before anything newer is told, and now and then while they go on: with what was
        not told of before.
        """

    def limits(self) -> list[str]:
        """What it can't know of this training, and why."""
        return []

    def touched(self) -> list[str]:
        """What of others' it has hooks or patches on; `close` removes them."""
        return []

    def close(self) -> None:  # noqa: B027
        """Give back what was touched."""
