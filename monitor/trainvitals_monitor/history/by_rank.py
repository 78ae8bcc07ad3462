"""
What each rank said of itself at the last steps: when it was done with them, and what its model was called with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import DRAWS, INPUTS, STEPS, WORKER_ROUNDS, Table

KEPT_STEPS = 256
TABLES: tuple[Table, ...] = (STEPS, INPUTS, DRAWS, WORKER_ROUNDS)

_TABLE_OF = {column.name: table for table in TABLES for column in table.columns}
_DTYPE_OF = {column.name: np.dtype(column.dtype) for table in TABLES for column in table.columns}


class ByRank:
    """Rows about steps, [step, rank], of the last KEPT_STEPS steps that were judged."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._steps: dict[int, dict[str, npt.NDArray[Any]]] = {}

    def put(
        self, step: int, table: Table, rank: int, columns: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """A rank's row about a step; of several the last one counts."""
        if not 0 <= rank < self._world_size:
            return
        row = self._steps.setdefault(step, {})
        while len(self._steps) > KEPT_STEPS:
            del self._steps[min(self._steps)]
        for column in table.columns:
            values = columns.get(column.name)
            if values is not None and len(values):
                self._of(row, column.name)[rank] = values[-1]
        self._of(row, table.name)[rank] = True

    def last(
        self, column: str, length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Steps [k], oldest first, values [k, ranks], and whether the rank said anything, [k, ranks]; k <= `length`."""
        table = _TABLE_OF[column].name
        steps = sorted(self._steps)[-length:]
        shape = (len(steps), self._world_size)
        values, seen = np.zeros(shape, _DTYPE_OF[column]), np.zeros(shape, np.bool_)
        for row, step in enumerate(steps):
            told = self._steps[step]
            if column in told:
                values[row], seen[row] = told[column], told[table]
        return np.array(steps, np.int64), values, seen

    def _of(self, row: dict[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
        if name not in row:
            row[name] = np.zeros(self._world_size, _DTYPE_OF.get(name, np.dtype(np.bool_)))
        return row[name]
