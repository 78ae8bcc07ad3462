"""
Steps of which only their series are left: what the store's chunks say of them, given back to an attempt.

The frames of a long run are not kept for ever. Where the run is looked at once more (as the reference of another), these
columns stand in for their rows, ranks merged already. Tables that no series is made of (groups, inputs) are not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SERIES_TABLE, TABLE_BY_NAME
from trainvitals_monitor.history.scalars import Scalars
from trainvitals_monitor.history.series import Window
from trainvitals_monitor.history.tensors import TensorTable

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """
    Series of the tensors `fqns` over `steps` [k]: per statistic values [k, n], NaN where not looked at; and scalars, by
    name and step.
    """

    steps: npt.NDArray[np.int64]
    fqns: Sequence[str]
    statistics: Mapping[str, Values]
    scalars: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    def write(self, step: int, tensors: TensorTable, window: Window, scalars: Scalars) -> None:
        """What is known of this step into the window, which has begun it; what is there stays."""
        row = int(np.searchsorted(self.steps, step))
        if row == len(self.steps) or self.steps[row] != step:
            return
        known = [tensors.index_of(fqn) for fqn in self.fqns]
        index = np.array([-1 if i is None else i for i in known], np.int64)
        by_table: dict[str, dict[str, Values]] = {}
        for stat, values in self.statistics.items():
            if not window.seen_now(stat, step).any():
                by_table.setdefault(SERIES_TABLE[stat].name, {})[stat] = values[row]
        for name, columns in by_table.items():
            seen = (index >= 0) & ~np.isnan(np.stack([*columns.values()])).all(axis=0)
            if seen.any():
                rows = {stat: column[seen] for stat, column in columns.items()}
                window.write(TABLE_BY_NAME[name], index[seen], rows)
        for name, by_step in self.scalars.items():
            if step in by_step:
                scalars.put(name, step, by_step[step])
