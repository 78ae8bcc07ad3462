"""
What optimizers remember: the sizes and the precision of their moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.cores import CorePlan, cut_many
from trainvitals.layout import is_dtensor, local_part
from trainvitals.probes.probe import Look, Probe
from trainvitals.sweep import can_norm, norms

TENSORS_A_LOOK = 32
"""Moments change slowly: few tensors are looked at, and only when the counters are."""
MAX_AT_FIRST = 1024
_FIRST = ("exp_avg", "momentum_buffer")
_SECOND = ("exp_avg_sq", "square_avg")


class Moments(Probe):
    """
    Reads the cores of `exp_avg`, `exp_avg_sq`, `momentum_buffer` and `square_avg` of a few parameters in turn, after
    the step, all of them after the attempt's first. Quantised and other moments of odd types give no row.
    """

    name = "moments"

    def __init__(self) -> None:
        self._turn = 0

    def after_step(self, look: Look) -> None:
        """Rows for the parameters whose turn it is."""
        if not look.choice.counters:
            return
        held = [
            (index, state)
            for optimizer in look.optimizers
            for index, state in _states(look, optimizer)
        ]
        count = MAX_AT_FIRST if look.first else TENSORS_A_LOOK
        start = self._turn % len(held) if held else 0
        chosen = [*held[start:], *held[:start]][:count]
        self._turn = start + len(chosen)
        _report(look, chosen)


def _states(look: Look, optimizer: Optimizer) -> list[tuple[int, Mapping[str, Any]]]:
    holding = look.slots.holding(optimizer)
    found: list[tuple[int, Mapping[str, Any]]] = []
    for index, (group, position) in zip(holding.tensors.tolist(), holding.held, strict=True):
        state = optimizer.state.get(optimizer.param_groups[group]["params"][position])
        if isinstance(state, dict) and state:
            found.append((index, state))
    return found


def _report(look: Look, chosen: list[tuple[int, Mapping[str, Any]]]) -> None:
    parts: list[torch.Tensor] = []
    plans: list[CorePlan] = []
    where: list[tuple[int, int]] = []
    bits: dict[int, int] = {}
    for index, state in chosen:
        for column, names in enumerate((_FIRST, _SECOND)):
            part = _part(look, index, next((state[name] for name in names if name in state), None))
            if part is not None:
                where.append((index, column))
                parts.append(part)
                plans.append(look.slots.plan(index))
                bits[index] = min(bits.get(index, 64), 8 * part.element_size())
    scales = np.sqrt([plan.square_scale for plan in plans])
    sizes = norms(cut_many(parts, plans)) * scales
    rows = {index: [0.0, 0.0] for index in bits}
    for (index, column), size in zip(where, sizes.tolist(), strict=True):
        rows[index][column] = size
    look.add(
        "moments",
        list(rows),
        first_moment=[row[0] for row in rows.values()],
        second_moment=[row[1] for row in rows.values()],
        moment_bits=[bits[index] for index in rows],
    )


def _part(look: Look, index: int, moment: Any) -> torch.Tensor | None:
    """The local part, if it lies as the parameter does."""
    live = look.slots.local(index)
    if type(moment) not in (torch.Tensor, torch.nn.Parameter) and not is_dtensor(moment):
        return None
    part = local_part(moment)
    if live is None or part.shape != live.shape or part.device != live.device:
        return None
    fits = look.slots.plan(index).layout.kind != "unknown" and part.is_floating_point()
    return part if fits and can_norm(part) else None
