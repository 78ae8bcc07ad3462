"""
What a metric is: how it is declared, and the samples of one at a scrape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricSpec:
    """
    One metric: name (without the suffix that its type adds), type, labels and help.

    `bound`: the most series of it that there can be, for each run where `run` is a label.
    """

    name: str
    type: Literal["gauge", "counter", "info"]
    labels: tuple[str, ...]
    help: str
    bound: int = 1

    @property
    def exposed(self) -> str:
        """The name that a query uses."""
        return self.name + {"gauge": "", "counter": "_total", "info": "_info"}[self.type]

    def labelled(self, *values: str) -> str:
        """The labels as a sample has them, `{run="a"}`; "" if there are none."""
        pairs = ",".join(
            f'{label}="{_escaped(value)}"' for label, value in zip(self.labels, values, strict=True)
        )
        return f"{{{pairs}}}" if pairs else ""


@dataclass(frozen=True)
class Block:
    """Samples of one metric: their labels as `MetricSpec.labelled` makes them, and as many values; NaN: no sample."""

    metric: str
    labels: Sequence[str]
    values: Sequence[float]

    def known(self) -> Block:
        """Without the samples that are NaN."""
        if not math.isnan(sum(self.values)):
            return self
        pairs = [
            (text, value)
            for text, value in zip(self.labels, self.values, strict=True)
            if value == value
        ]
        return Block(self.metric, [text for text, _ in pairs], [value for _, value in pairs])


def blocks(specs: Sequence[MetricSpec], samples: Iterable[Sample]) -> list[Block]:
    """Single samples as blocks, one a metric."""
    by_name = {spec.name: spec for spec in specs}
    found: dict[str, tuple[list[str], list[float]]] = {}
    for name, labels, value in samples:
        texts, values = found.setdefault(name, ([], []))
        texts.append(by_name[name].labelled(*labels))
        values.append(float(value))
    return [Block(name, texts, values) for name, (texts, values) in found.items()]


Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels and its value."""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
