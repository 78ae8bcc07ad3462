"""
Which watched tensors have series of their own, where there are more of a kind than places: half of the places lie evenly
over the model's depth and stay, the others go to the worst as they are now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.metrics.block import Series
from trainvitals_monitor.metrics.copied import Copied

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_ROUTERS = 128
"""Expert biases, and counters of experts' tokens, that have series of their own."""
MAX_ADAPTERS = 192
_HELD = 1.5
"""So much worse must a tensor be to take another one's place, so that series do not come and go at every scrape."""


@dataclass(frozen=True)
class Seats:
    """Positions among the layout's watched tensors, in the model's order; `series` is a memo."""

    layout: object
    biases: IntArray
    counters: IntArray
    adapters: IntArray
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def _all(self) -> tuple[IntArray, IntArray, IntArray]:
        return self.biases, self.counters, self.adapters


def seated(copied: Copied, before: Seats | None) -> Seats:
    """
    Who has a place at this scrape. `before`: what this gave at the last one, and gives again if nobody changes places.
    """
    held = before if before is not None and before.layout is copied.layout else None
    biases, counters, adapters = held._all if held else (None, None, None)
    layout = copied.layout
    now = Seats(
        layout,
        _places(len(layout.biases), MAX_ROUTERS, biases, lambda: _of_biases(copied)),
        _places(len(layout.counters), MAX_ROUTERS, counters, lambda: _of_counters(copied)),
        _places(
            len(layout.adapters.a),
            MAX_ADAPTERS,
            adapters,
            lambda: np.abs(copied.trends["lora_a"]),
        ),
    )
    if held and all(np.array_equal(*pair) for pair in zip(held._all, now._all, strict=True)):
        return held
    return now


def _of_biases(copied: Copied) -> FloatArray:
    """How far the elements lie apart, and how far their middle moved: both in the bias's own unit."""
    biases, columns = copied.layout.biases, copied.columns
    drift = np.nan_to_num(np.abs(copied.trends["bias"]))
    badness: FloatArray = columns["high"][biases] - columns["low"][biases] + drift
    return badness


def _of_counters(copied: Copied) -> FloatArray:
    """The busiest expert over the mean, and how many are dead."""
    counters, columns = copied.layout.counters, copied.columns
    badness: FloatArray = columns["busiest"][counters] + np.nan_to_num(columns["unused"][counters])
    return badness


def _places(
    count: int, room: int, held: IntArray | None, badness: Callable[[], FloatArray]
) -> IntArray:
    if count <= room:
        return np.arange(count)
    fixed = np.linspace(0, count - 1, room // 2).astype(np.int64)
    # Nothing known is as good as can be, and not below 0: there, to be held would count against it.
    score = np.nan_to_num(badness(), nan=0.0, posinf=np.inf)
    if held is not None:
        score[held] *= _HELD
    score[fixed] = np.inf
    worst: IntArray = np.sort(np.argsort(-score, kind="stable")[:room])
    return worst
