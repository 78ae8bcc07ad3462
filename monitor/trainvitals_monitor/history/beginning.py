"""
What the tensors held before the attempt's first step: rows that come once, and stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import BEGINNING

Columns = dict[str, npt.NDArray[Any]]


class Beginning:
    """BEGINNING columns over all tensors; `read` is 0 where nothing is known."""

    def __init__(self) -> None:
        self._columns: Columns = {}

    def put(
        self,
        tensors: npt.NDArray[np.int64],
        columns: Mapping[str, npt.NDArray[Any]],
        num_tensors: int,
    ) -> None:
        """Rows about these tensors; the first that come count, a second attach in the same attempt adds new ones."""
        made = self.columns(num_tensors) or {
            column.name: np.zeros(num_tensors, column.dtype) for column in BEGINNING.columns
        }
        fresh = made["read"][tensors] == 0
        for name, values in columns.items():
            made[name][tensors[fresh]] = values[fresh]
        self._columns = made

    def columns(self, num_tensors: int) -> Columns | None:
        """Each of length `num_tensors`; None if no rows came."""
        if not self._columns:
            return None
        missing = num_tensors - len(self._columns["read"])
        if missing > 0:
            self._columns = {k: np.pad(v, (0, missing)) for k, v in self._columns.items()}
        return self._columns
