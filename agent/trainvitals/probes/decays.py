"""
Whether second moments of 16 bits decay: of the elements that had to become smaller in this step, how many did.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.optim import Optimizer

from trainvitals.cores import cut
from trainvitals.gradient import gradient_of, local_gradient
from trainvitals.holding import Holding
from trainvitals.layout import is_dtensor, local_part
from trainvitals.probes.probe import Look, Probe

TENSORS_A_LOOK = 16
_COARSE = (torch.bfloat16, torch.float16)


class Decays(Probe):
    """
    Cuts `exp_avg_sq` and the gradient before the step, and `exp_avg_sq` after it, of a few parameters in turn: those
    that are wider than their second moment of 16 bits. Trainers without such moments pay a look-up each.
    """

    name = "decays"

    def __init__(self) -> None:
        self._turn = 0
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def before_step(self, look: Look) -> None:
        """The moments whose turn it is, and which of their elements are due to fall."""
        if not look.choice.counters:
            return
        for optimizer in look.optimizers:
            for index, parameter, moment in self._coarse(look, optimizer):
                gradient = gradient_of(parameter)
                part = None if gradient is None else local_gradient(gradient)
                if part is None or part.shape != moment.shape or not part.is_floating_point():
                    continue
                plan = look.slots.plan(index)
                old = cut(moment, plan).float()
                due = (old > 0) & (cut(part, plan).float().square() < old / 2)
                self._before[index] = (old, due)

    def after_step(self, look: Look) -> None:
        """Rows for those that were cut before."""
        before, self._before = self._before, {}
        if not before:
            return
        rows: dict[int, tuple[int, int]] = {}
        for optimizer in look.optimizers:
            holding = look.slots.holding(optimizer)
            for place, index in enumerate(holding.tensors.tolist()):
                found = before.get(index)
                now = None if found is None else _coarse(look, optimizer, holding, place)
                if found is not None and now is not None:
                    old, due = found
                    fell = due & (cut(now[2], look.slots.plan(index)).float() < old)
                    rows[index] = (int(due.sum()), int(fell.sum()))
        look.add(
            "decays",
            list(rows),
            due=[due for due, _ in rows.values()],
            fell=[fell for _, fell in rows.values()],
        )

    def _coarse(
        self, look: Look, optimizer: Optimizer
    ) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        holding = look.slots.holding(optimizer)
        total = len(holding.held)
        count = min(total, TENSORS_A_LOOK)
        self._turn += count
        for k in range(count):
            found = _coarse(look, optimizer, holding, (self._turn + k) % total)
            if found is not None:
                yield found


def _coarse(
    look: Look, optimizer: Optimizer, holding: Holding, place: int
) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """A held tensor, its parameter and its second moment, if that is narrower and lies as the tensor does."""
    group, position = holding.held[place]
    parameter = optimizer.param_groups[group]["params"][position]
    state = optimizer.state.get(parameter)
    moment = state.get("exp_avg_sq") if isinstance(state, dict) else None
    if not isinstance(moment, torch.Tensor) or moment.dtype not in _COARSE:
        return None
    if type(moment) is not torch.Tensor and not is_dtensor(moment):
        return None
    index, part = int(holding.tensors[place]), local_part(moment)
    live = look.slots.local(index)
    same = live is not None and live.shape == part.shape and live.device == part.device
    if not same or parameter.element_size() <= moment.element_size():
        return None
    known = look.slots.plan(index).layout.kind != "unknown"
    return (index, parameter, part) if known else None
