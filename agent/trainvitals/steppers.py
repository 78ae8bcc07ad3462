"""
Which optimizers really step, and which of their steps are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.scalar import number_of

_PLAIN = frozenset({float, int, np.float64})
"""Types of numbers that can be compared without asking anybody else's code."""


def plain_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """
    The optimizers that really update parameters: those inside a container or wrapper, else the optimizer itself.

    torchtitan's OptimizersContainer has `.optimizers` and groups without a learning rate; Lookahead and SAM wrappers
    keep theirs as `.optimizer`, `.base_optimizer` or `.inner_optimizer`.
    """
    inner: list[Optimizer] = []
    for name in (
        "optimizers",
        "chained_optimizers",
        "optimizer",
        "base_optimizer",
        "inner_optimizer",
    ):
        held = getattr(optimizer, name, None)
        if held is None:
            continue
        candidates = held if isinstance(held, (list, tuple)) else [held]
        inner += [
            each for each in candidates if isinstance(each, Optimizer) and each is not optimizer
        ]
    if not inner:
        return [optimizer]
    return distinct(leaf for each in inner for leaf in plain_optimizers(each))


def steppers(optimizer: Optimizer) -> list[Optimizer]:
    """Whose steps torch's hooks speak of: the optimizer's own, else those inside it (accelerate's wrapper)."""
    is_hooked = getattr(type(optimizer).step, "hooked", False)
    return [optimizer] if is_hooked else plain_optimizers(optimizer)


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """Of all that it updates."""
    groups = [group for each in plain_optimizers(optimizer) for group in each.param_groups]
    return {id(parameter) for group in groups for parameter in group["params"]}


def is_phantom(optimizer: Optimizer) -> bool:
    """
    Whether this step only fills the optimizer's state: every learning rate 0 and no gradient that is not all zero.

    `get_optimizer_state_dict` and torchtitan's `init_optim_state` run such a step on a fresh optimizer. A warm-up that
    starts at a rate of 0 has gradients and is a step. Gradients are only read when every rate is 0; a rate that can't be
    read without waiting for a device is none of these (those of torch's phantom steps are on the default device).
    """
    if has_rate(optimizer):
        return False
    groups = [group for each in plain_optimizers(optimizer) for group in each.param_groups]
    if any(number_of(group.get("lr")) != 0.0 for group in groups):
        return False
    gradients = (p.grad for group in groups for p in group["params"] if p.grad is not None)
    return not any(_has_nonzero(gradient) for gradient in gradients)


def has_rate(optimizer: Optimizer) -> bool:
    """At a glance: groups of its own, the first of which has a learning rate above 0 (not a tensor's). 0.2 us."""
    groups = optimizer.param_groups
    rate: Any = groups[0].get("lr") if groups else None
    return type(rate) in _PLAIN and bool(rate > 0)


@torch.no_grad()
def _has_nonzero(gradient: torch.Tensor) -> bool:
    local = getattr(gradient, "_local_tensor", gradient)
    if local.layout is torch.sparse_coo:
        local = local.coalesce().values()
    # Of what lies in yet another way (CSR) the elements can't be compared: it is taken for a gradient.
    return local.layout is not torch.strided or bool((local != 0).any())


def distinct(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Each once, in their order."""
    found: list[Optimizer] = []
    for optimizer in optimizers:
        if not any(optimizer is other for other in found):
            found.append(optimizer)
    return found
