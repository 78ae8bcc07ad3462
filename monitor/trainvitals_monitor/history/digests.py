"""
Digests of live tensors, at the few steps for which they are kept: the attempt's first that had any, the last ones, and
each tensor's own last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import DIGESTS, SKETCHES

KEPT_STEPS = 2

Columns = dict[str, npt.NDArray[Any]]


class Digests:
    """DIGESTS columns by step, over all tensors; `count` is 0 where a tensor has none."""

    def __init__(self) -> None:
        self._by_step: dict[int, Columns] = {}
        self._latest: Columns = {}
        self._latest_steps = np.zeros(0, np.int64)
        self.first_step: int | None = None

    def put(
        self, step: int, tensors: npt.NDArray[np.int64], columns: Columns, num_tensors: int
    ) -> None:
        """Rows about these tensors at this step; they join rows that are there already."""
        if not len(tensors):
            return
        if self.first_step is None:
            self.first_step = step
        rows = _padded(self._by_step.get(step, {}), num_tensors)
        for name, values in columns.items():
            rows[name][tensors] = values
        self._by_step[step] = rows
        self.remember(np.full(len(tensors), step), tensors, columns, num_tensors)
        for old in sorted(self._by_step)[:-KEPT_STEPS]:
            if old != self.first_step:
                del self._by_step[old]

    def remember(
        self,
        steps: npt.NDArray[np.int64],
        tensors: npt.NDArray[np.int64],
        columns: Columns,
        num_tensors: int,
    ) -> None:
        """The last rows about these tensors, and the step that each is about; later ones stay."""
        self._latest = _padded(self._latest, num_tensors)
        missing = num_tensors - len(self._latest_steps)
        self._latest_steps = np.pad(self._latest_steps, (0, missing), constant_values=-1)
        later = steps >= self._latest_steps[tensors]
        for name, values in columns.items():
            self._latest[name][tensors[later]] = values[later]
        self._latest_steps[tensors[later]] = steps[later]

    def at(self, step: int, num_tensors: int) -> Columns | None:
        """The rows of this step, each column of length `num_tensors`; None if there are none."""
        rows = self._by_step.get(step)
        return None if rows is None else _padded(rows, num_tensors)

    def first(self, num_tensors: int) -> Columns | None:
        """The rows of the first step that had any."""
        return None if self.first_step is None else self.at(self.first_step, num_tensors)

    def latest(self, num_tensors: int) -> tuple[Columns, npt.NDArray[np.int64]]:
        """Each tensor's last row, and the step that it is about (-1: there was none)."""
        missing = num_tensors - len(self._latest_steps)
        steps = np.pad(self._latest_steps, (0, missing), constant_values=-1)
        return _padded(self._latest, num_tensors), steps


def sketch_of(
    columns: Columns, rows: npt.NDArray[Any] | slice = slice(None)
) -> npt.NDArray[np.float64]:
    """The sketches of these rows, [k, 8]; their mean squared difference estimates a squared distance."""
    return np.stack([columns[name][rows] for name in SKETCHES], axis=-1)


def _padded(rows: Columns, num_tensors: int) -> Columns:
    padded = {}
    for column in DIGESTS.columns:
        old = rows.get(column.name)
        if old is not None and len(old) == num_tensors:
            padded[column.name] = old
            continue
        padded[column.name] = np.zeros(num_tensors, np.dtype(column.dtype))
        if old is not None:
            padded[column.name][: len(old)] = old
    return padded
