"""
Which optimizer holds which tensor, at what learning rate and weight decay: the ranks' reports as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.frame import OptimizersSeen
from trainvitals_monitor.history.optimizers import merged
from trainvitals_monitor.history.rates import GroupRates, RatesTold
from trainvitals_monitor.history.schedule import Course, Mirror, Rise, Schedule

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class _Report:
    """What one rank said last: its optimizers (with the attempt's tensor indices) and its groups' learning rates."""

    def __init__(self, rates: GroupRates) -> None:
        self.seen: OptimizersSeen | None = None
        self.tensors = np.empty(0, np.int64)
        self.groups = np.empty(0, np.int64)
        self.rates = rates
        """Not to be changed: ranks that were told the same share them."""

    def optimizers(self, seen: OptimizersSeen) -> None:
        known = [] if self.seen is None else self.seen.group_tensors
        if seen.group_tensors[: len(known)] != known and seen.step > self.rates.through:
            self.rates = self.rates.copy()
            self.rates.count_anew(seen.step)
        self.seen = seen
        sizes = [len(group) for group in seen.group_tensors]
        self.tensors = np.array([i for group in seen.group_tensors for i in group], np.int64)
        self.groups = np.repeat(np.arange(len(sizes)), sizes)
        self.groups, self.tensors = (
            self.groups[self.tensors >= 0],
            self.tensors[self.tensors >= 0],
        )


class Rates(NamedTuple):
    """
    Learning rates by parameter group [g], groups counted through all optimizers of one rank.

    `former_peak`: the largest rate before the last change, NaN if there was none; `changed`: the step of that change,
    the first one's for a group that never changed; `peak`: the largest rate so far. `halved`: by group, the steps since
    which the rate has been at or below the half, the quarter, ... of its peak; `falls`: how often it was told lower
    since it last rose; `falls_at_once`: of these, in the step after another change. `mirrored`: where it came up as it
    came down, None: it never did. `rises`: the last time that the rate rose, None: it never did.
    """

    lr: FloatArray
    former_peak: FloatArray
    changed: FloatArray
    peak: FloatArray
    halved: tuple[tuple[int, ...], ...]
    falls: tuple[int, ...]
    falls_at_once: tuple[int, ...]
    mirrored: tuple[Mirror | None, ...]
    rises: tuple[Rise | None, ...]


class Held:
    """The optimizers of all ranks. Where ranks disagree about a tensor, the lowest one that holds it counts."""

    def __init__(self) -> None:
        self._reports: dict[int, _Report] = {}
        self._untold = GroupRates()
        self._lr: FloatArray | None = None
        self._group_rates: Rates | None = None
        self._mask: BoolArray | None = None
        self._merged: OptimizersSeen | None = None
        self._deciding: list[_Report] | None = None

    def saw(self, rank: int, optimizers: OptimizersSeen) -> None:
        """A rank's optimizers, in place of what it said before."""
        self._report(rank).optimizers(optimizers)
        self._lr = self._group_rates = self._mask = self._merged = self._deciding = None

    def rates(self, told: Mapping[int, RatesTold], step: int) -> None:
        """
        Learning rates and weight decays of ranks' parameter groups, from this step on.

        Ranks whose groups have been told the same all along share what is remembered: a thousand cost what one does.
        """
        alike: dict[tuple[Any, ...], list[int]] = {}
        for rank, one in told.items():
            same = (id(self._report(rank).rates), *(values.tobytes() for values in one))
            alike.setdefault(same, []).append(rank)
        sharing = Counter(id(report.rates) for report in self._reports.values())
        for (rates_id, *_), ranks in alike.items():
            rates = self._reports[ranks[0]].rates
            known = len(rates.lr)
            if rates is self._untold or sharing[rates_id] > len(ranks):
                rates = rates.copy()
                for rank in ranks:
                    self._reports[rank].rates = rates
            rates.tell(told[ranks[0]], step)
            if len(rates.lr) > known:
                self._deciding = None
        self._lr = self._group_rates = None

    def _report(self, rank: int) -> _Report:
        report = self._reports.get(rank)
        if report is None:
            report = self._reports[rank] = _Report(self._untold)
        return report

    def as_json(self) -> list[tuple[int, dict[str, Any]]]:
        """What the ranks that decide about any tensor told of rates, as plain data."""
        deciding = set(self._from_behind())
        return [(n, one.rates.as_json()) for n, one in self._reports.items() if one in deciding]

    def restore(self, said: Iterable[tuple[int, Mapping[str, Any]]], through: int) -> None:
        """As it was when all up to this step had been told; before anything is told again."""
        for rank, report in said:
            self._report(rank).rates = GroupRates.from_json(report, through)
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
            if report.seen is not None and len(report.rates.lr):
                count = len(report.seen.group_tensors)
                rates = report.rates
                columns = (rates.lr, rates.former_peak, rates.changed, rates.peak_lr)
                lr, former_peak, changed, peak = (column[:count] for column in columns)
                courses = [rates.courses.get(group) or Course() for group in range(len(lr))]
                return Rates(
                    lr,
                    former_peak,
                    changed,
                    peak,
                    tuple(each.descent.halved for each in courses),
                    tuple(each.descent.falls for each in courses),
                    tuple(each.descent.falls_at_once for each in courses),
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
        return self._spread(lambda rates: rates.decayed_at(step), num_tensors)

    def schedules(self, num_tensors: int) -> dict[int, Schedule]:
        """By tensor, what is remembered of its group's learning rate; only of tensors that are held."""
        found: dict[int, Schedule] = {}
        for report in self._from_behind():
            of_group = {group: course.schedule for group, course in report.rates.courses.items()}
            for tensor, group in zip(report.tensors.tolist(), report.groups.tolist(), strict=True):
                if group in of_group and tensor < num_tensors:
                    found[tensor] = of_group[group]
        return found

    def _by_tensor(self, column: str, num_tensors: int) -> FloatArray:
        return self._spread(lambda rates: getattr(rates, column), num_tensors)

    def _spread(self, column: Callable[[GroupRates], FloatArray], num_tensors: int) -> FloatArray:
        values = np.full(num_tensors, np.nan)
        for report in self._from_behind():
            of_group = column(report.rates)
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
                mine = set(report.tensors[report.groups < len(report.rates.lr)].tolist())
                if not mine <= decided:
                    decided |= mine
                    found.append(report)
            self._deciding = found[::-1]
        return self._deciding
