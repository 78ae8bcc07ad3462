"""
Samples as a scrape makes them: blocks of one metric, which are written by one operation each.

What a series' line has before its value is made once, and kept as long as the series lives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.metrics.spec import MetricSpec

FloatArray = npt.NDArray[np.float64]

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels and its value."""


@dataclass(frozen=True)
class Block:
    """Samples of one metric: `form` is their lines, with a place for each of the values (as `%` fills them)."""

    metric: str
    form: bytes
    values: tuple[float, ...]

    def first(self, count: int) -> Block:
        """The first samples, if there are more than so many."""
        if count >= len(self.values):
            return self
        lines = self.form.split(b"\n", count)[:count]
        return Block(self.metric, b"".join(line + b"\n" for line in lines), self.values[:count])

    def text(self) -> bytes:
        """The lines. Cost: 0.2 us a sample."""
        return self.form % self.values


class Series:
    """
    The series of one metric, in an order that stays: their lines are made once.

    Values are written with 12 digits: more than the float32 of a statistic has, exact for counts below 1e12, and three
    times as fast as all 17.
    """

    def __init__(self, spec: MetricSpec, labels: Iterable[tuple[str, ...]]) -> None:
        self._metric = spec.name
        self._lines = [b"%b %%.12g\n" % _head(spec, values) for values in labels]
        self._form = b"".join(self._lines)
        self._known = b"\1" * len(self._lines)

    def block(self, values: FloatArray) -> Block:
        """With a value each; where that is NaN there is no sample."""
        known = ~np.isnan(values)
        # Who has a value hardly ever changes between two scrapes.
        if (marks := known.tobytes()) != self._known:
            self._form, self._known = b"".join(compress(self._lines, marks)), marks
        return Block(self._metric, self._form, tuple(values[known].tolist()))


def blocks(specs: Mapping[str, MetricSpec], samples: Iterable[Sample]) -> list[Block]:
    """Single samples as blocks, one a metric; NaN is no sample. Values are written as they are, to the last bit."""
    found: dict[str, tuple[list[bytes], list[float]]] = {}
    for name, labels, value in samples:
        if value == value:
            lines, values = found.setdefault(name, ([], []))
            lines.append(b"%b %%a\n" % _known_head(specs[name], labels))
            values.append(float(value))
    return [Block(name, b"".join(lines), tuple(values)) for name, (lines, values) in found.items()]


def _head(spec: MetricSpec, labels: tuple[str, ...]) -> bytes:
    """What stands before a sample's value; a percent sign of a label is none of the form's places."""
    return f"{spec.exposed}{spec.labelled(*labels)}".replace("%", "%%").encode()


_known_head = lru_cache(maxsize=8192)(_head)
