"""
How a model's tensors are grouped for metrics, and the labels of the groups: made once per model, not per scrape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainvitals.roles import Role
from trainvitals_monitor.detectors.adapters import Adapters, adapters_in
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.metrics.block import Series

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_LAYERS = 160
_NUMBER_WIDTH = 2


@dataclass(frozen=True)
class Group:
    """Groups of tensors: `number[i]` is tensor i's, -1 for none; `names` are theirs, `left_out` had no room."""

    number: IntArray
    names: list[str]
    left_out: int = 0


@dataclass(frozen=True)
class Cells:
    """
    The tensors of one layer and one role are a cell: what is summed by cell once is soon summed by layer and by role. `layer`
    and `role`: of each cell, -1 for none.
    """

    _order: IntArray
    _starts: IntArray
    layer: IntArray
    role: IntArray

    @classmethod
    def of(cls, layers: Group, roles: Group) -> Cells:
        """Those that have a tensor."""
        width = len(roles.names) + 1
        number = (layers.number + 1) * width + roles.number + 1
        order = np.argsort(number, kind="stable")
        numbers, starts = np.unique(number[order], return_index=True)
        return cls(order, starts, numbers // width - 1, numbers % width - 1)

    def sums(self, row: FloatArray) -> tuple[FloatArray, BoolArray]:
        """
        Of a value per tensor (NaN: not known) the sum by cell, and where any is known. Cost: 60 us for 10,000, where
        bincount takes 90 for neighbours that share a cell, and a matrix of all rows is written to new pages.
        """
        row = row[self._order]
        known = ~np.isnan(row)
        sums: FloatArray = np.add.reduceat(np.where(known, row, 0.0), self._starts)
        return sums, np.logical_or.reduceat(known, self._starts)


@dataclass(frozen=True)
class Layout:
    """
    The groups of a model. `layer_of[i]`: the name of tensor i's layer; `biases`, `counters`, `adapters`: the watched
    ones, in the model's order.
    """

    run: str
    attempt: str
    version: int
    size: int
    fqn: list[str]
    dtype: list[str]
    layer_of: list[str]
    layers: Group
    roles: Group
    cells: Cells
    biases: IntArray
    counters: IntArray
    adapters: Adapters
    series: dict[str, Series]
    """A memo, by metric."""

    @classmethod
    def of(cls, run: str, attempt: AttemptHistory) -> Layout:
        """The caller holds the run's lock. Cost: 4 us a tensor."""
        table = attempt.tensors
        layer_of = layer_names(table.fqn)
        order = table.order
        biases, counters, routers = (
            _in_order(np.flatnonzero(table.mask(role)), order)
            for role in (Role.EXPERT_BIAS, Role.EXPERT_COUNTER, Role.ROUTER)
        )
        counters = counters if len(counters) else routers
        adapters = adapters_in(table)
        ordered = np.argsort(order[adapters.a], kind="stable")
        roles = [role.value for role in table.role]
        named = sorted(set(roles))
        # A buffer of no known role says nothing by its norm: step counters, masks, caches.
        told = table.is_param | ~table.mask(Role.OTHER)
        numbers = np.array([named.index(role) for role in roles], np.int64)
        layers = _grouped(layer_of, table.is_param, order)
        by_role = Group(np.where(told, numbers, -1), named)
        return cls(
            run=run,
            attempt=attempt.key,
            version=table.version,
            size=len(table),
            fqn=list(table.fqn),
            dtype=list(table.dtype),
            layer_of=layer_of,
            layers=layers,
            roles=by_role,
            cells=Cells.of(layers, by_role),
            biases=biases,
            counters=counters,
            adapters=Adapters(
                adapters.a[ordered],
                adapters.b[ordered],
                adapters.base[ordered],
                adapters.widest[ordered],
            ),
            series={},
        )

    def is_of(self, attempt: AttemptHistory) -> bool:
        """Whether this is the attempt's model as it is now."""
        return (self.attempt, self.version) == (attempt.key, attempt.tensors.version)


def _in_order(tensors: IntArray, order: IntArray) -> IntArray:
    found: IntArray = tensors[np.argsort(order[tensors], kind="stable")]
    return found


def _grouped(names: Sequence[str], member: npt.NDArray[np.bool_], order: IntArray) -> Group:
    """By name, of members only: the first MAX_LAYERS in the order of the model."""
    in_order = np.argsort(order, kind="stable")
    known = list(dict.fromkeys(names[i] for i in in_order if member[i]))
    number = {name: place for place, name in enumerate(known[:MAX_LAYERS])}
    numbers = [number.get(name, -1) if own else -1 for name, own in zip(names, member, strict=True)]
    return Group(np.array(numbers, np.int64), list(number), max(0, len(known) - MAX_LAYERS))


def layer_names(fqns: Sequence[str]) -> list[str]:
    """
    The layer that each tensor belongs to: its name up to the first number, which is padded so that layers sort; the
    module where there is no number.

    >>> layer_names(["layers.3.moe.experts.7.w1", "layers.11.norm.weight", "head.weight"])
    ['layers.03', 'layers.11', 'head']
    """
    split = [_split(fqn) for fqn in fqns]
    width: dict[str, int] = {}
    for prefix, number in split:
        width[prefix] = max(width.get(prefix, _NUMBER_WIDTH), len(number))
    return [
        f"{prefix}.{number.zfill(width[prefix])}".removeprefix(".") if number else prefix
        for prefix, number in split
    ]


def _split(fqn: str) -> tuple[str, str]:
    parts = fqn.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[:place]), part
    return ".".join(parts[:-1]) or fqn, ""
