"""
Which tensors have ever moved in an attempt, and when first: what a lock is made of, and compared with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Moved:
    """
    Per tensor of the attempt, arrays of length n: `first`, the first step at which an element was seen to have changed
    (-1: none), and `steps`, how many steps of its optimizer the looks for that have covered.

    `since`: the first step that was judged here. After a restart of the monitor that may be late: then what has moved
    is known, and what has not is not.
    """

    def __init__(self) -> None:
        self.first: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.steps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.since = -1
        self.num_at_start = 0
        """Tensors that were there at the first judged step; those with higher indices came later."""
        self._last: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def saw(
        self,
        step: int,
        changed: npt.NDArray[np.float64],
        since: npt.NDArray[np.float64],
        seen: npt.NDArray[np.bool_],
    ) -> None:
        """The columns `changed` and `since` [n] of a step; the same step may come again, with more."""
        more = len(changed) - len(self.first)
        if more:
            self.first = np.pad(self.first, (0, more), constant_values=-1)
            self.steps = np.pad(self.steps, (0, more))
            self._last = np.pad(self._last, (0, more), constant_values=-1)
        if self.since < 0:
            self.since, self.num_at_start = step, len(changed)
        fresh = seen & (self._last != step)
        covered = since[fresh]
        self.steps[fresh] += np.where(np.isnan(covered), 1.0, covered).astype(np.int64)
        self._last[seen] = step
        with np.errstate(invalid="ignore"):
            self.first[(self.first < 0) & (changed > 0)] = step
