"""
The calls of torch and numpy without which a look can't be had in plain Python, and nothing around them: what sweep.py's
ratios are set beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from trainvitals.slots import SlotTable


def bare(model: nn.Module, slots: SlotTable) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each by name; `slots` are those of the model, whose parameters have one dtype and are contiguous."""
    owners = [slot.place.owner for slot in slots.slots]
    keys = [slot.place.key for slot in slots.slots]
    plans = [slots.plan(index) for index in range(len(slots))]
    whole = [p for p, plan in zip(model.parameters(), plans, strict=True) if plan.is_whole]
    cut = [
        (parameter, plan.index, (plan.numel - plan.run + 1, plan.run))
        for parameter, plan in zip(model.parameters(), plans, strict=True)
        if plan.index is not None
    ]
    parts = [parameter.detach() for parameter in model.parameters()]
    room = torch.empty(1 << 20)

    def find() -> None:
        for owner, key in zip(owners, keys, strict=True):
            owner[key].data_ptr()

    def copy_cores() -> None:
        for parameter in whole:
            parameter.clone()
        for parameter, index, shape in cut:
            parameter.as_strided(shape, (1, 1)).index_select(0, index)

    def multiply() -> None:
        for part in parts:
            array = part.numpy()
            np.vdot(array, array)

    def widen() -> None:
        for part in parts:
            for stretch in part.view(-1).split(len(room)):
                room[: len(stretch)].copy_(stretch)

    yield "bare: where the slots' tensors lie", find
    yield "bare: cores copied", copy_cores
    if parts[0].dtype is torch.float32:
        yield "bare: a dot product each", multiply
        yield "bare: torch._foreach_norm", lambda: torch._foreach_norm(parts)
    else:
        yield "bare: made float32", widen
