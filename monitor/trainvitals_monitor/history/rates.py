"""
Where the learning rates and weight decays of one rank's parameter groups have been.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.header import MAX_TENSORS
from trainvitals_monitor.history.schedule import Course

FloatArray = npt.NDArray[np.float64]

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


class RatesTold(NamedTuple):
    """Learning rate and weight decay of some groups, as one frame has them."""

    groups: npt.NDArray[np.int64]
    lr: FloatArray
    weight_decay: FloatArray


class GroupRates:
    """By parameter group. Before a restart all up to step `through` had been told; told again, it changes nothing."""

    def __init__(self, through: int = -1) -> None:
        self.lr = np.empty(0, np.float64)
        self.peak_lr = np.empty(0, np.float64)
        self.rose = np.empty(0, np.float64)
        self.changed = np.empty(0, np.float64)
        self.former_peak = np.empty(0, np.float64)
        self.weight_decay = np.empty(0, np.float64)
        self.decayed = np.empty(0, np.float64)
        self.decayed_through = np.empty(0, np.float64)
        self.courses: dict[int, Course] = {}
        self.through = through

    def copy(self) -> GroupRates:
        """As it is now, to go on otherwise."""
        return copy.deepcopy(self)

    def count_anew(self, step: int) -> None:
        """The groups are others from this step on: what they had decayed so far is no longer known."""
        self.decayed = np.zeros_like(self.decayed)
        self.decayed_through = np.full_like(self.decayed, step - 1)
        self.former_peak = np.full_like(self.former_peak, np.nan)

    def tell(self, told: RatesTold, step: int) -> None:
        """From this step on."""
        if step < self.through:
            return
        fit = (told.groups >= 0) & (told.groups < MAX_TENSORS)
        groups, lr, decay = (values[fit] for values in told)
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
        """Everything that was told, as plain data."""
        columns = {name: getattr(self, name).tolist() for name in _COLUMNS}
        return {**columns, "courses": [(g, c.as_json()) for g, c in self.courses.items()]}

    @classmethod
    def from_json(cls, said: Mapping[str, Any], through: int) -> GroupRates:
        """As it was when all up to step `through` had been told."""
        made = cls(through)
        for name in _COLUMNS:
            setattr(made, name, np.array(said[name], np.float64))
        made.courses = {group: Course.from_json(course) for group, course in said["courses"]}
        return made
