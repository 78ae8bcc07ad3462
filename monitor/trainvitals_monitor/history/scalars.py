"""
What the trainer logged, by name: the loss and the like.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

MAX_SCALARS = 512
MAX_VALUES = 4096
"""Values kept of one scalar: the last ones."""


class Scalars:
    """Values by name and step; one value a step, the last one logged."""

    def __init__(self) -> None:
        self._values: dict[str, deque[tuple[int, float]]] = {}

    @property
    def names(self) -> list[str]:
        """Every name that was logged, sorted."""
        return sorted(self._values)

    def put(self, name: str, step: int, value: float) -> None:
        """A value for this step, in place of one that is there. Names beyond MAX_SCALARS are not kept."""
        if name not in self._values and len(self._values) >= MAX_SCALARS:
            return
        values = self._values.setdefault(name, deque(maxlen=MAX_VALUES))
        later = []
        while values and values[-1][0] >= step:
            later.append(values.pop())
        if later and later[-1][0] == step:
            later.pop()
        values.append((step, value))
        values.extend(reversed(later))

    def last(
        self, name: str, length: int, through: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The last values up to a step, oldest first: steps [k] and values [k]."""
        found: list[tuple[int, float]] = []
        for step, value in reversed(self._values.get(name, ())):
            if len(found) == length:
                break
            if step <= through:
                found.append((step, value))
        steps = np.array([step for step, _ in reversed(found)], np.int64)
        return steps, np.array([value for _, value in reversed(found)], np.float64)

    def between(
        self, name: str, first_step: int, end_step: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The values of the steps from `first_step` up to, not including, `end_step`."""
        steps, values = self.last(name, end_step - first_step, end_step - 1)
        return steps[steps >= first_step], values[steps >= first_step]
