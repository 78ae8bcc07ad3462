"""
Tiers: a long series is kept step by step, and in two thinner copies that keep of 16 and of 256 steps the extremes.

A thinner chunk has the same form as one of steps (chunks.py), with three columns for each statistic: `norm` is the last
value of a stretch, `norm.low` and `norm.high` are its extremes. NaN within a stretch makes its extremes NaN: what was
computed once is not averaged away. An entry bears the last step that was looked at in its stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.chunks import Bools, Chunk, Floats, Steps, Tile, pack

TIERS = (1, 16, 256)
"""Steps that one entry stands for."""
FACTOR = 16
ENTRIES = 128
"""Of one chunk; of the first tier a step each."""
LEAST_KEPT_STEPS = 2 * FACTOR * ENTRIES
"""Fewer can't be kept one by one: a chunk of the next tier is about half as many."""
LOW, HIGH = ".low", ".high"


class Thinned(NamedTuple):
    """Stretches of a series [m]: the step looked at last, the value there, and the extremes."""

    steps: Steps
    last: Floats
    low: Floats
    high: Floats

    def part(self, chosen: Bools) -> Thinned:
        """Some of the stretches."""
        return Thinned(self.steps[chosen], self.last[chosen], self.low[chosen], self.high[chosen])


def joined(parts: Sequence[Thinned]) -> Thinned:
    """Series that follow one another."""
    return Thinned(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.last for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
    )


def kind_of(kind: str, every: int) -> str:
    """What the store calls the chunks of a tier."""
    return kind if every == 1 else f"{kind}/{every}"


def span(every: int) -> int:
    """Steps that a chunk of this tier is about; it begins at a multiple of them."""
    return every * ENTRIES


def span_of(kind: str) -> int:
    """The same of what the store calls the chunks."""
    return span(int(kind.partition("/")[2] or 1))


def thin(series: Thinned, every: int) -> Thinned:
    """The series in stretches of `every` steps; they begin at multiples of it."""
    if not len(series.steps):
        return series
    starts = _starts(series.steps, every)
    ends = np.append(starts[1:], len(series.steps)) - 1
    return Thinned(
        series.steps[ends],
        series.last[ends],
        np.minimum.reduceat(series.low, starts),
        np.maximum.reduceat(series.high, starts),
    )


def thin_tile(parts: Sequence[Tile], first_step: int, every: int) -> Chunk | None:
    """
    One chunk of a tier, from `first_step`, out of those of the tier before, oldest first; None if nothing was seen. What
    they hold of other steps (of a large model they have other lengths) is left out.

    Cost: 1 ms for 16 chunks of 8 tensors with 8 statistics.
    """
    parts = [_within(part, first_step, first_step + span(every)) for part in parts]
    steps = np.concatenate([part[0] for part in parts])
    if not len(steps):
        return None
    names = dict.fromkeys(name for _, statistics in parts for name in statistics)
    starts = _starts(steps, every)
    ends = np.append(starts[1:], len(steps)) - 1
    made: dict[str, tuple[Floats, Bools]] = {}
    for name in names:
        if name.endswith((LOW, HIGH)):
            continue
        last, seen = _joined(parts, name)
        low, _ = _joined(parts, name + LOW) if name + LOW in names else (last, seen)
        high, _ = _joined(parts, name + HIGH) if name + HIGH in names else (last, seen)
        if seen.all():  # as most are: there is nothing to look for
            whole = seen[ends]
            made[name] = (last[ends], whole)
            made[name + LOW] = (np.minimum.reduceat(low, starts), whole)
            made[name + HIGH] = (np.maximum.reduceat(high, starts), whole)
            continue
        any_seen = np.logical_or.reduceat(seen, starts, axis=0)
        rows = np.where(seen, np.arange(len(steps))[:, None], -1)
        newest = np.maximum.reduceat(rows, starts, axis=0)
        made[name] = (np.take_along_axis(last, np.maximum(newest, 0), axis=0), any_seen)
        least = np.minimum.reduceat(np.where(seen, low, np.inf), starts, axis=0)
        most = np.maximum.reduceat(np.where(seen, high, -np.inf), starts, axis=0)
        made[name + LOW], made[name + HIGH] = (least, any_seen), (most, any_seen)
    return pack(steps[ends], made, first_step)


def _starts(steps: Steps, every: int) -> npt.NDArray[np.int64]:
    """Where a new stretch begins."""
    return np.flatnonzero(np.diff(steps // every, prepend=-1))


def _within(part: Tile, first: int, end: int) -> Tile:
    steps, statistics = part
    own = (steps >= first) & (steps < end)
    if own.all():
        return part
    return steps[own], {
        name: (values[own], seen[own]) for name, (values, seen) in statistics.items()
    }


def _joined(parts: Sequence[Tile], name: str) -> tuple[Floats, Bools]:
    """One statistic over all parts; tensors that came later were not looked at before."""
    if len(parts) == 1:
        return parts[0][1][name]
    width = max(len(values[0]) for _, statistics in parts for values, _ in statistics.values())
    values, seen = [], []
    for steps, statistics in parts:
        shape = (len(steps), width)
        own, looked = np.zeros(shape), np.zeros(shape, np.bool_)
        if name in statistics:
            count = statistics[name][0].shape[1]
            own[:, :count], looked[:, :count] = statistics[name]
        values.append(own)
        seen.append(looked)
    return np.concatenate(values), np.concatenate(seen)
