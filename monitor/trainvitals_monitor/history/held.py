"""
Which optimizer holds which tensor, at what learning rate and weight decay: the ranks' reports as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.frame import OptimizersSeen
from trainvitals_monitor.history.optimizers import merged
from trainvitals_monitor.history.schedule import Course, Mirror, Rise, Schedule

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class _Report:
    """What one rank said last: its optimizers (with the attempt's tensor indices) and its groups' learning rates."""

    def __init__(self) -> None:
        self.seen: OptimizersSeen | None = None
        self.tensors = np.empty(0, np.int64)
        self.groups = np.empty(0, np.int64)
        self.lr = np.empty(0, np.float64)
        self.peak_lr = np.empty(0, np.float64)
        self.rose = np.empty(0, np.float64)
        self.changed = np.empty(0, np.float64)
        self.former_peak = np.empty(0, np.float64)
        self.weight_decay = np.empty(0, np.float64)
        self.decayed = np.empty(0, np.float64)
        self.decayed_through = np.empty(0, np.float64)
        self.courses: dict[int, Course] = {}
        self._through = -1
        """Before a restart all up to this step had been told, and is told again as far as its frames are kept."""

    def optimizers(self, seen: OptimizersSeen) -> None:
        known = [] if self.seen is None else self.seen.group_tensors
        if seen.group_tensors[: len(known)] != known and seen.step > self._through:
            # Groups are counted anew: what they had decayed so far is no longer known.
            self.decayed = np.zeros_like(self.decayed)
            self.decayed_through = np.full_like(self.decayed, seen.step - 1)
            self.former_peak = np.full_like(self.former_peak, np.nan)
        self.seen = seen
        sizes = [len(group) for group in seen.group_tensors]
        self.tensors = np.array([i for group in seen.group_tensors for i in group], np.int64)
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        self.groups, self.tensors = (
            self.groups[self.tensors >= 0],
            self.tensors[self.tensors >= 0],
        )

    def rates(self, groups: IntArray, lr: FloatArray, decay: FloatArray, step: int) -> None:
        if step < self._through:
            return
        needed = int(groups.max()) + 1 if len(groups) else 0
        if needed > len(self.lr):
            new = (0, needed - len(self.lr))
            for name in _COLUMNS:
                setattr(self, name, np.pad(getattr(self, name), new, constant_values=np.nan))
        # What was told before held up to the step before this one.
        decayed = self.decayed_at(step - 1)[groups]
        self.decayed[groups] = np.where(np.isnan(decayed), 0.0, decayed)
        self.decayed_through[groups] = step - 1
        self.weight_decay[groups] = decay
        for group, rate in zip(groups.tolist(), lr.tolist(), strict=True):
            self.courses.setdefault(group, Course()).tell(rate, step)
        higher = ~(lr <= self.lr[groups])
        self.rose[groups] = np.where(higher, step, self.rose[groups])
        other = ~(lr == self.lr[groups])
        self.changed[groups] = np.where(other, step, self.changed[groups])
        self.former_peak[groups] = np.where(other, self.peak_lr[groups], self.former_peak[groups])
        self.peak_lr[groups] = np.fmax(self.peak_lr[groups], lr)
        self.lr[groups] = lr

    def decayed_at(self, step: int) -> FloatArray:
        """The sum of learning rate x weight decay over all steps up to this one, by group."""
        each: FloatArray = self.lr * self.weight_decay
        total: FloatArray = self.decayed + each * np.maximum(step - self.decayed_through, 0)
        return total

    def as_json(self) -> dict[str, Any]:
        """Everything that was told of rates, as plain data."""
        columns = {name: getattr(self, name).tolist() for name in _COLUMNS}
        return {**columns, "courses": [(g, c.as_json()) for g, c in self.courses.items()]}

    def restore(self, said: Mapping[str, Any], through: int) -> None:
        """As it was when all up to this step had been told."""
        for name in _COLUMNS:
            setattr(self, name, np.array(said[name], np.float64))
        self.courses = {group: Course.from_json(course) for group, course in said["courses"]}
        self._through = through


_COLUMNS = (
    "lr",
    "peak_lr",
    "rose",
    "changed",
    "former_peak",
    "weight_decay",
    "decayed",
    "decayed_through",
)


class Rates(NamedTuple):
    """
    Learning rates by parameter group [g], groups counted through all optimizers of one rank.

    `former_peak`: the largest rate before the last change, NaN if there was none; `changed`: the step of that change,
    the first one's for a group that never changed; `peak`: the largest rate so far. `halved`: by group, the steps since
    which the rate has been at or below the half, the quarter, ... of its peak; `falls`: how often it was told lower
    since it last rose. `mirrored`: where it came up as it came down, None: it never did. `rises`: the last time that the
    rate rose, None: it never did.
    """

    lr: FloatArray
    former_peak: FloatArray
    changed: FloatArray
    peak: FloatArray
    halved: tuple[tuple[int, ...], ...]
    falls: tuple[int, ...]
    mirrored: tuple[Mirror | None, ...]
    rises: tuple[Rise | None, ...]


class Held:
    """The optimizers of all ranks. Where ranks disagree about a tensor, the lowest one that holds it counts."""

    def __init__(self) -> None:
        self._reports: dict[int, _Report] = {}
        self._lr: FloatArray | None = None
        self._group_rates: Rates | None = None
        self._mask: BoolArray | None = None
        self._merged: OptimizersSeen | None = None
        self._deciding: list[_Report] | None = None

    def saw(self, rank: int, optimizers: OptimizersSeen) -> None:
        """A rank's optimizers, in place of what it said before."""
        self._reports.setdefault(rank, _Report()).optimizers(optimizers)
        self._lr = self._group_rates = self._mask = self._merged = self._deciding = None

    def rates(
        self, rank: int, groups: IntArray, lr: FloatArray, decay: FloatArray, step: int
    ) -> None:
        """Learning rates and weight decays of a rank's parameter groups, from this step on."""
        report = self._reports.setdefault(rank, _Report())
        known = len(report.lr)
        report.rates(groups, lr, decay, step)
        self._lr = self._group_rates = None
        if len(report.lr) > known:
            self._deciding = None

    def as_json(self) -> list[tuple[int, dict[str, Any]]]:
        """What the ranks that decide about any tensor told of rates, as plain data."""
        deciding = set(self._from_behind())
        return [(n, one.as_json()) for n, one in self._reports.items() if one in deciding]

    def restore(self, said: Iterable[tuple[int, Mapping[str, Any]]], through: int) -> None:
        """As it was when all up to this step had been told; before anything is told again."""
        for rank, report in said:
            self._reports.setdefault(rank, _Report()).restore(report, through)
        self._group_rates = None

    def lr(self, num_tensors: int) -> FloatArray:
        """Learning rate by tensor, NaN where unknown."""
        if self._lr is None or len(self._lr) != num_tensors:
            self._lr = self._by_tensor("lr", num_tensors)
            self._lr.setflags(write=False)
        return self._lr

    def group_rates(self) -> Rates | None:
        """The groups of the lowest rank that told of any; made once between two reports, for several detectors ask."""
        if self._group_rates is None:
            self._group_rates = self._of_lowest()
        return self._group_rates

    def _of_lowest(self) -> Rates | None:
        for _, report in sorted(self._reports.items()):
            if report.seen is not None and len(report.lr):
                count = len(report.seen.group_tensors)
                columns = (report.lr, report.former_peak, report.changed, report.peak_lr)
                lr, former_peak, changed, peak = (column[:count] for column in columns)
                courses = [report.courses.get(group) or Course() for group in range(len(lr))]
                return Rates(
                    lr,
                    former_peak,
                    changed,
                    peak,
                    tuple(each.descent.halved for each in courses),
                    tuple(each.descent.falls for each in courses),
                    tuple(each.mirror for each in courses),
                    tuple(each.rise for each in courses),
                )
        return None

    def peak_lr(self, num_tensors: int) -> FloatArray:
        """The largest learning rate that each tensor's group has had in this attempt, NaN where unknown."""
        return self._by_tensor("peak_lr", num_tensors)

    def rose(self, num_tensors: int) -> FloatArray:
        """The last step at which the learning rate of each tensor's group rose (or began), NaN where unknown."""
        return self._by_tensor("rose", num_tensors)

    def weight_decay(self, num_tensors: int) -> FloatArray:
        """The weight decay of each tensor's group, NaN where unknown."""
        return self._by_tensor("weight_decay", num_tensors)

    def decayed(self, num_tensors: int, step: int) -> FloatArray:
        """The sum of learning rate x weight decay of each tensor's group up to this step, NaN where unknown."""
        return self._spread(lambda report: report.decayed_at(step), num_tensors)

    def schedules(self, num_tensors: int) -> dict[int, Schedule]:
        """By tensor, what is remembered of its group's learning rate; only of tensors that are held."""
        found: dict[int, Schedule] = {}
        for report in self._from_behind():
            of_group = {group: course.schedule for group, course in report.courses.items()}
            for tensor, group in zip(report.tensors.tolist(), report.groups.tolist(), strict=True):
                if group in of_group and tensor < num_tensors:
                    found[tensor] = of_group[group]
        return found

    def _by_tensor(self, column: str, num_tensors: int) -> FloatArray:
        return self._spread(lambda report: getattr(report, column), num_tensors)

    def _spread(self, column: Callable[[_Report], FloatArray], num_tensors: int) -> FloatArray:
        values = np.full(num_tensors, np.nan)
        for report in self._from_behind():
            of_group = column(report)
            known = report.groups < len(of_group)
            values[report.tensors[known]] = of_group[report.groups[known]]
        return values

    def mask(self, num_tensors: int) -> BoolArray:
        """Which tensors any optimizer holds."""
        if self._mask is None or len(self._mask) != num_tensors:
            self._mask = np.zeros(num_tensors, np.bool_)
            for report in self._reports.values():
                self._mask[report.tensors] = True
            self._mask.setflags(write=False)
        return self._mask

    def split(self, num_tensors: int) -> BoolArray:
        """Which tensors some ranks' optimizers hold and others' do not: each steps its share, and hands it on (ZeRO)."""
        holders = np.zeros(num_tensors, np.int64)
        for report in self._reports.values():
            holders[np.unique(report.tensors)] += 1
        return (holders > 0) & (holders < len(self._reports))

    def merged(self) -> OptimizersSeen | None:
        """One report for all ranks: the lowest rank's, and the groups of ranks that hold something else."""
        if self._merged is None:
            self._merged = merged([report.seen for _, report in sorted(self._reports.items())])
        return self._merged

    def _from_behind(self) -> list[_Report]:
        """Reports that decide about any tensor, the lowest rank last. Of a thousand ranks that hold the same, one."""
        if self._deciding is None:
            decided: set[int] = set()
            found = []
            for _, report in sorted(self._reports.items()):
                mine = set(report.tensors[report.groups < len(report.lr)].tolist())
                if not mine <= decided:
                    decided |= mine
                    found.append(report)
            self._deciding = found[::-1]
        return self._deciding
