"""
The load of one router's experts over its last looks, such as from a counter that somebody may reset at any time.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from trainvitals.facts import LOAD_LOOKS

Floats = npt.NDArray[np.float64]


class Load:
    """
    Reads a counter's values, one look after the other.

    A counter that only grows counts on: what came since is the difference. Once an element is smaller than before,
    somebody resets it, and what it holds is what came since; at the look after that too, for then it mostly is reset
    at every step, and a small batch may by chance be smaller nowhere. So it is where nothing differs though the tensor
    was written to. All zeros say nothing: it is read too late.
    """

    def __init__(self) -> None:
        self._before: Floats | None = None
        self._writes = 0
        self._was_reset = False
        self.recent: deque[Floats] = deque(maxlen=LOAD_LOOKS)

    def read(self, counts: Floats, writes: int) -> Floats | None:
        """
        Choices since the look before, by expert; None: nothing can be said. `writes`: the tensor's version, by which
        it is known that a count as large as the last one is a new one.
        """
        before, self._before = self._before, counts
        written, self._writes = writes != self._writes, writes
        if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
            return None
        if before is None:
            return None  # it may hold all that was counted since the run began
        is_equal = bool((counts == before).all())
        if is_equal and not written:
            return None
        is_reset = is_equal or bool((counts < before).any()) or not before.any()
        since = counts if is_reset or self._was_reset else counts - before
        self._was_reset = is_reset
        return self.add(since)

    def add(self, since: Floats) -> Floats:
        """Choices since the look before, from one who knows them."""
        self.recent.append(since)
        return since


def follows(change: Floats, load: Floats) -> float | None:
    """Correlation of a bias's change with the load; None where one of them is the same for all experts."""
    one, other = change - change.mean(), load - load.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    if not np.isfinite(size) or size <= 1e-12 * (np.abs(change).max() * np.abs(load).max()):
        return None
    return float(one @ other / size)
