"""
What a metric is: how it is declared, and how its samples are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True, eq=False)
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

    @cached_property
    def exposed(self) -> str:
        """The name that a query uses."""
        return self.name + {"gauge": "", "counter": "_total", "info": "_info"}[self.type]

    def labelled(self, *values: str) -> str:
        """The labels as a sample has them, `{run="a"}`; "" if there are none."""
        return self._labels % tuple(map(_escaped, values))

    @cached_property
    def _labels(self) -> str:
        pairs = ",".join(f'{label}="%s"' for label in self.labels)
        return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
