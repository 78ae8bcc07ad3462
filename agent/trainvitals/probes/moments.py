"""
What optimizers remember: the sizes and the precision of their moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.cores import CorePlan, cut_many, digest_many
from trainvitals.facts import MOMENT_SKETCHES, SKETCHES
from trainvitals.holding import Holding
from trainvitals.layout import is_dtensor, local_part
from trainvitals.probes.probe import Look, Probe
from trainvitals.sweep import can_norm, norms

TENSORS_A_LOOK = 16
"""Moments change slowly: few tensors are looked at, and only when the counters are."""
MAX_AT_FIRST = 1024
CUT_TOGETHER = 256
"""Moments that are cut at a time: 4 MB of float32."""
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
        holdings = [(each, look.slots.holding(each)) for each in look.optimizers]
        total = sum(len(holding.held) for _, holding in holdings)
        count = min(total, MAX_AT_FIRST if look.first else TENSORS_A_LOOK)
        turns = {(self._turn + k) % total for k in range(count)}
        self._turn += count
        chosen: list[tuple[int, Mapping[str, Any]]] = []
        begin = 0
        for optimizer, holding in holdings:
            end = begin + len(holding.held)
            places = sorted(turn - begin for turn in turns if begin <= turn < end)
            chosen += _states(optimizer, holding, places)
            begin = end
        _report(look, chosen)


def _states(
    optimizer: Optimizer, holding: Holding, places: Sequence[int]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place in places:
        group, position = holding.held[place]
        state = optimizer.state.get(optimizer.param_groups[group]["params"][position])
        if isinstance(state, dict) and state:
            yield int(holding.tensors[place]), state


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
    rows = {index: [0.0, 0.0] for index in bits}
    sketched = {index: row for row, (index, _) in enumerate(where)}  # the second comes last
    last = set(sketched.values())
    for begin in range(0, len(parts), CUT_TOGETHER):
        some = range(begin, min(begin + CUT_TOGETHER, len(parts)))
        cuts = cut_many([parts[row] for row in some], [plans[row] for row in some])
        sizes = norms(cuts) * np.sqrt([plans[row].square_scale for row in some])
        for row, size in zip(some, sizes.tolist(), strict=True):
            index, column = where[row]
            rows[index][column] = size
        complete = [row for row in some if row in last]
        digests = digest_many(
            [cuts[row - begin] for row in complete], [plans[row] for row in complete]
        )
        indices = [where[row][0] for row in complete]
        look.add(
            "moments",
            indices,
            first_moment=[rows[index][0] for index in indices],
            second_moment=[rows[index][1] for index in indices],
            moment_bits=[bits[index] for index in indices],
            **{own: digests[name] for own, name in zip(MOMENT_SKETCHES, SKETCHES, strict=False)},
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
