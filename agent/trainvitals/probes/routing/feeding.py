"""
Which experts have a gradient: one that was given no token has none, whatever the trainer does with its counters.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.cores import cut
from trainvitals.facts import LOAD_LOOKS
from trainvitals.gradient import gradient_of, local_gradient
from trainvitals.probes.probe import Look
from trainvitals.routers import Router

Fed = npt.NDArray[np.bool_]


class Feeding:
    """The last looks at which experts of one router had a gradient; `now`: of this step, None if not looked at."""

    def __init__(self) -> None:
        self.now: Fed | None = None
        self.recent: deque[Fed] = deque(maxlen=LOAD_LOOKS)

    def read(self, look: Look, router: Router) -> Fed | None:
        """By expert, True: the cores of its gradient (or its gradient's norm) are not zero. One host copy."""
        self.now = _stacked(look, router.stack) if router.stack >= 0 else _listed(look, router)
        if self.now is not None:
            self.recent.append(self.now)
        return self.now


def _stacked(look: Look, index: int) -> Fed | None:
    """Cores are spread evenly over the experts, so that those of one lie together; None for shards across experts."""
    plan, tensor, live = look.slots.plan(index), look.slots.tensor(index), look.slots.local(index)
    layout = plan.layout
    gradient = None if tensor is None else gradient_of(tensor)
    if gradient is None or live is None or layout.kind not in ("full", "replica", "box"):
        return None
    experts = layout.sizes[0]
    part = local_gradient(gradient)
    if part is None or part.shape != live.shape or layout.sizes[1:] != layout.shape[1:]:
        return None
    cores = cut(part, plan)
    if not experts or not cores.numel() or cores.numel() % experts:
        return None
    return (cores.view(experts, -1) != 0).any(1).cpu().numpy()


def _listed(look: Look, router: Router) -> Fed | None:
    """None if any of the experts is sharded, or frozen."""
    fed: list[torch.Tensor | None] = []
    for index in router.listed:
        tensor = look.slots.tensor(index)
        if tensor is None or not tensor.requires_grad:
            return None
        if look.slots.layout(index).kind not in ("full", "replica"):
            return None
        gradient = gradient_of(tensor)
        part = None if gradient is None else local_gradient(gradient)
        cores = None if part is None else cut(part, look.slots.plan(index))
        fed.append(None if cores is None or not cores.numel() else (cores != 0).any())
    known = [each for each in fed if each is not None]
    if not known:
        return None
    values = iter(torch.stack(known).cpu().tolist())
    return np.array([each is not None and next(values) for each in fed], np.bool_)
