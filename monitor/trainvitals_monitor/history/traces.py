"""
A state of many tensors, as their digests have it, by FQN: it outlives the attempt whose tensor table they were read in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import DIGESTS

IntArray = npt.NDArray[np.int64]


class Traces:
    """DIGESTS columns and the step of each row, by FQN; only of tensors that were looked at."""

    def __init__(
        self,
        fqns: Iterable[str] = (),
        rows: dict[str, npt.NDArray[Any]] | None = None,
        steps: IntArray | None = None,
    ) -> None:
        rows = rows or {
            column.name: np.zeros(0, np.dtype(column.dtype)) for column in DIGESTS.columns
        }
        steps = np.zeros(0, np.int64) if steps is None else steps
        looked = np.flatnonzero((steps >= 0) & (rows["count"] > 0))
        names = list(fqns)
        self._row = {names[index]: row for row, index in enumerate(looked.tolist())}
        self._rows = {column.name: rows[column.name][looked] for column in DIGESTS.columns}
        self._steps = steps[looked]

    def __len__(self) -> int:
        return len(self._row)

    def of(self, fqns: Sequence[str]) -> tuple[dict[str, npt.NDArray[Any]], IntArray]:
        """The rows of these tensors, in their order, and their steps; `count` 0 and step -1 where there is none."""
        places = np.array([self._row.get(fqn, -1) for fqn in fqns], np.int64)
        known = places >= 0
        steps = np.full(len(fqns), -1, np.int64)
        steps[known] = self._steps[places[known]]
        columns = {}
        for name, values in self._rows.items():
            columns[name] = np.zeros(len(fqns), values.dtype)
            columns[name][known] = values[places[known]]
        return columns, steps

    def updated(self, later: Traces) -> Traces:
        """These, with the later ones in the place of those of the same name."""
        fqns = list(dict.fromkeys([*self._row, *later._row]))
        rows, steps = self.of(fqns)
        newer, newer_steps = later.of(fqns)
        known = newer_steps >= 0
        for name, values in rows.items():
            values[known] = newer[name][known]
        return Traces(fqns, rows, np.where(known, newer_steps, steps))
