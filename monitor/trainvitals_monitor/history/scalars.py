"""
What the trainer logged, by name: the loss and the like.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_SCALARS = 512
MAX_VALUES = 4096
"""Values kept of one scalar: the last ones."""


class _Scalar(NamedTuple):
    """One scalar: steps, ascending, and as many values."""

    steps: list[int]
    values: list[float]


class Scalars:
    """Values by name and step; one value a step, the last one logged."""

    def __init__(self) -> None:
        self._scalars: dict[str, _Scalar] = {}

    @property
    def names(self) -> list[str]:
        """Every name that was logged, sorted."""
        return sorted(self._scalars)

    def put(self, name: str, step: int, value: float) -> None:
        """A value for this step, in place of one that is there. Names beyond MAX_SCALARS are not kept."""
        if name not in self._scalars and len(self._scalars) >= MAX_SCALARS:
            return
        steps, values = self._scalars.setdefault(name, _Scalar([], []))
        at = bisect_left(steps, step)
        if at < len(steps) and steps[at] == step:
            values[at] = value
            return
        steps.insert(at, step)
        values.insert(at, value)
        if len(steps) > MAX_VALUES:
            del steps[0], values[0]

    def last(
        self, name: str, length: int, through: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The last values up to a step, oldest first: steps [k] and values [k]."""
        steps, values = self._scalars.get(name, _Scalar([], []))
        end = bisect_right(steps, through)
        rows = slice(max(0, end - length), end)
        return np.array(steps[rows], np.int64), np.array(values[rows], np.float64)

    def between(
        self, name: str, first_step: int, end_step: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The values of the steps from `first_step` up to, not including, `end_step`."""
        steps, values = self.last(name, end_step - first_step, end_step - 1)
        return steps[steps >= first_step], values[steps >= first_step]
