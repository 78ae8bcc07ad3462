"""
The optimizers themselves: which tensors they hold, their rates (learning rate, weight decay), and their own step counters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch.optim import Optimizer

from trainvitals.frame import ForeignParameter, OptimizersSeen
from trainvitals.gradient import gradient_of
from trainvitals.holding import Holding
from trainvitals.probes.probe import Look, Probe, Rested
from trainvitals.record import Record
from trainvitals.scalar import number_of

RATE_STEPS = 64
"""A learning rate that does not change is repeated this often."""
MAX_FOREIGN = 256

_CARRIED = re.compile(
    r"master|fp32|float32|kahan|compensat|^comp$|^shift$|resid|round.*error", re.I
)
"""
What optimizers call the exact parameter, or what rounding took of it: apex's and Transformer Engine's `master_param`,
torchdistx's `compensation`, pytorch_optimizer's `kahan_comp`, adamw_bf16's `shift`.
"""
STATES_SEARCHED = 4

_Rates = tuple[float, float | None]
"""A group's learning rate, and its weight decay where it has one."""
_Row = tuple[int, int, float, float]
"""Of the table: group, step, learning rate, weight decay."""


class Optimizers(Probe):
    """
    Reports which optimizers there are when that changes, learning rates when they change, step counters now and then.

    An optimizer that has not stepped yet is not known, unless it was given at attach. Learning rates on another device
    than the CPU are not read: that would wait for it.
    """

    name = "optimizers"

    def __init__(self) -> None:
        self._shown: list[tuple[list[list[int]], int, bool]] = []
        self._rates: WeakKeyDictionary[Optimizer, list[_Rates | None]] = WeakKeyDictionary()
        self._foreign: WeakKeyDictionary[Optimizer, tuple[Holding, list[bool]]] = (
            WeakKeyDictionary()
        )
        self._told: dict[int, tuple[_Rates, int]] = {}
        self._first_group: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._rested: list[_Row] = []
        self._given: list[Any] = []
        self._given_by: Callable[[], Optimizer | None] = lambda: None

    def before_step(self, look: Look) -> None:
        """Rates are read before a scheduler moves them, gradients of foreign parameters before they are freed."""
        self._given = []  # rates are known anew: what rests have seen is no longer what they are compared with
        for optimizer in look.optimizers:
            holding = look.slots.holding(optimizer)
            self._rates[optimizer] = [_rates(group) for group in optimizer.param_groups]
            known = self._foreign.get(optimizer)
            if known is None or known[0] is not holding:
                flags = [
                    gradient_of(_parameter(optimizer, where)) is not None
                    for where in holding.foreign[:MAX_FOREIGN]
                ]
                self._foreign[optimizer] = (holding, flags)

    def rest_step(self, step: int, optimizers: Sequence[Optimizer]) -> None:
        """Rates that changed, as rows: what a schedule does is known in full, even if the optimizer is gone by then."""
        for optimizer in optimizers:
            # A number that is the same object has not changed; a tensor's may have, under the same object.
            given = [g.get(name) for g in optimizer.param_groups for name in ("lr", "weight_decay")]
            same = len(given) == len(self._given) and all(map(is_, given, self._given))
            if same and self._given_by() is optimizer:
                continue
            rates = [_rates(group) for group in optimizer.param_groups]
            fixed = not any(isinstance(number, torch.Tensor) for number in given)
            self._given, self._given_by = given if fixed else [], ref(optimizer)
            if rates != self._rates.get(optimizer) and optimizer in self._first_group:
                self._rates[optimizer] = rates
                self._rested += self._news(self._first_group[optimizer], rates, step)

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: ARG002
        """The rows for what changed in them."""
        rows, self._rested = self._rested, []
        _tell(record, rows)

    def after_step(self, look: Look) -> None:
        """What changed since it was last told."""
        optimizers = look.slots.optimizers()
        holdings = [look.slots.holding(optimizer) for optimizer in optimizers]
        signature = [
            (holding.groups, len(self._flags(optimizer, holding)), _carries(optimizer))
            for optimizer, holding in zip(optimizers, holdings, strict=True)
        ]
        if signature != self._shown and optimizers:
            self._shown = signature
            self._told.clear()
            look.record.event(self._seen(look.step, optimizers, holdings))
        self._report_rates(look, optimizers)
        if look.choice.counters:
            for optimizer in look.optimizers:
                _report_counters(look, optimizer)

    def _seen(
        self, step: int, optimizers: list[Optimizer], holdings: list[Holding]
    ) -> OptimizersSeen:
        owners = [number for number, each in enumerate(holdings) for _ in each.groups]
        foreign: list[ForeignParameter] = []
        first_group = 0
        for optimizer, holding in zip(optimizers, holdings, strict=True):
            flags = self._flags(optimizer, holding)
            for where, flag in zip(holding.foreign, flags, strict=False):  # capped
                parameter = _parameter(optimizer, where)
                foreign.append(
                    ForeignParameter(
                        group=first_group + where[0],
                        shape=list(parameter.shape),
                        dtype=str(parameter.dtype).removeprefix("torch."),
                        has_gradient=flag,
                    )
                )
            first_group += len(holding.groups)
        return OptimizersSeen(
            step=step,
            optimizers=[type(optimizer).__name__ for optimizer in optimizers],
            group_optimizer=owners,
            group_tensors=[list(group) for holding in holdings for group in holding.groups],
            foreign=foreign[:MAX_FOREIGN],
            masters=any(holding.masters for holding in holdings),
            carries=any(_carries(optimizer) for optimizer in optimizers),
            default_lr=[_default_lr(optimizer) for optimizer in optimizers],
        )

    def _flags(self, optimizer: Optimizer, holding: Holding) -> list[bool]:
        """
        Whether its foreign parameters have gradients. Empty while that is not known of these: those that are new after a
        step, for the model has got others in their place, are asked before the next one.
        """
        asked, flags = self._foreign.get(optimizer, (holding, []))
        return flags if asked.foreign == holding.foreign else []

    def _report_rates(self, look: Look, optimizers: list[Optimizer]) -> None:
        rows: list[_Row] = []
        group = 0
        for optimizer in optimizers:
            rates = self._rates.get(optimizer, [None] * len(optimizer.param_groups))
            rows += self._news(group, rates, look.step)
            self._first_group[optimizer] = group
            group += len(rates)
        _tell(look.record, rows)

    def _news(self, group: int, rates: list[_Rates | None], step: int) -> list[_Row]:
        """Rows of one optimizer's groups, the first of which has this number."""
        return [
            (number, step, rate[0], math.nan if rate[1] is None else rate[1])
            for number, rate in enumerate(rates, group)
            if rate is not None and self._is_news(number, rate, step)
        ]

    def _is_news(self, group: int, rate: _Rates, step: int) -> bool:
        told = self._told.get(group)
        if told is not None and told[0] == rate and step - told[1] < RATE_STEPS:
            return False
        self._told[group] = (rate, step)
        return True


def _tell(record: Record, rows: list[_Row]) -> None:
    if rows:
        groups, steps, lr, decays = zip(*rows, strict=True)
        record.add("groups", group=groups, step=steps, lr=lr, weight_decay=decays)


def _report_counters(look: Look, optimizer: Optimizer) -> None:
    if not optimizer.state and not any("step" in group for group in optimizer.param_groups):
        return
    holding = look.slots.holding(optimizer)
    rows = [
        (index, count)
        for index, where in zip(holding.tensors.tolist(), holding.held, strict=True)
        if (count := _count(optimizer, where)) is not None
    ]
    look.add("counters", [index for index, _ in rows], optimizer_step=[count for _, count in rows])


def _count(optimizer: Optimizer, where: tuple[int, int]) -> int | None:
    """The parameter's own counter, or its group's (fused optimizers keep one); None if reading it needs a sync."""
    group = optimizer.param_groups[where[0]]
    state: dict[str, Any] = optimizer.state.get(_parameter(optimizer, where), {})
    number = number_of(state.get("step", group.get("step")))
    return None if number is None else int(number)


def _default_lr(optimizer: Optimizer) -> float | None:
    lr = number_of(getattr(optimizer, "defaults", {}).get("lr"))
    return lr if lr is not None and math.isfinite(lr) else None


def _rates(group: dict[str, Any]) -> _Rates | None:
    lr = number_of(group.get("lr"))
    return None if lr is None else (lr, number_of(group.get("weight_decay")))


def _parameter(optimizer: Optimizer, where: tuple[int, int]) -> torch.Tensor:
    parameter: torch.Tensor = optimizer.param_groups[where[0]]["params"][where[1]]
    return parameter


def _carries(optimizer: Optimizer) -> bool:
    """Whether the state of some parameter has a tensor of its shape that is called so; 1 us a state."""
    return any(
        isinstance(key, str)
        and isinstance(value, torch.Tensor)
        and isinstance(parameter, torch.Tensor)
        and value.shape == parameter.shape
        and _CARRIED.search(key) is not None
        for parameter, state in islice(optimizer.state.items(), STATES_SEARCHED)
        if isinstance(state, dict)
        for key, value in state.items()
    )
