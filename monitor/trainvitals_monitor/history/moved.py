"""
Which tensors have ever moved in an attempt, and when first: what a lock is made of, and compared with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.history.series import Window


class Moved:
    """
    Per tensor of the attempt, arrays of length n: `first`, the first step at which an element was seen to have changed
    (-1: none), and `steps`, how many steps of its optimizer the looks for that have covered.

    `since`: the first step that was judged here. Where the first frames were lost that may be late: then what has moved is
    known, and what has not is not.
    """

    def __init__(self) -> None:
        self.first: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.steps: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.since = -1
        self.num_at_start = 0
        """Tensors that were there at the first judged step; those with higher indices came later."""
        self._last: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._through = -1

    @property
    def columns(self) -> dict[str, npt.NDArray[np.int64]]:
        """What is known of each tensor, for `put`."""
        return {"first": self.first, "steps": self.steps, "last": self._last}

    def restore(self, since: int, num_at_start: int, through: int) -> None:
        """Before a restart all steps up to `through` had been seen, and are seen again as far as they are kept."""
        self.since, self.num_at_start, self._through = since, num_at_start, through

    def put(
        self,
        index: npt.NDArray[np.int64],
        columns: Mapping[str, npt.NDArray[np.int64]],
        num_tensors: int,
    ) -> None:
        """What was known of these tensors before a restart."""
        self._resize(num_tensors)
        self.first[index], self.steps[index] = columns["first"], columns["steps"]
        self._last[index] = columns["last"]

    def saw(self, step: int, window: Window) -> None:
        """A step as it stands in the window; the same one may come again, with more."""
        changed, since = (window.now(stat, step) for stat in ("changed", "since"))
        seen = window.seen_now("changed", step)
        if step < self._through:
            return
        self._resize(len(changed))
        if self.since < 0:
            self.since, self.num_at_start = step, len(changed)
        fresh = seen & (self._last != step)
        covered = since[fresh]
        self.steps[fresh] += np.where(np.isnan(covered), 1.0, covered).astype(np.int64)
        self._last[seen] = step
        with np.errstate(invalid="ignore"):
            self.first[(self.first < 0) & (changed > 0)] = step

    def _resize(self, num_tensors: int) -> None:
        more = num_tensors - len(self.first)
        if more > 0:
            self.first = np.pad(self.first, (0, more), constant_values=-1)
            self.steps = np.pad(self.steps, (0, more))
            self._last = np.pad(self._last, (0, more), constant_values=-1)
