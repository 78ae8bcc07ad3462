"""
Megatron-LM (megatron-core): model chunks and the optimizer that holds their master weights.

    model, optimizer, scheduler = setup_model_and_optimizer(...)
    agent = attach(model, optimizer, step=args.iteration)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from megatron.core.optimizer import MegatronOptimizer
from torch import nn
from torch.optim import Optimizer

import trainvitals


def attach(
    model: nn.Module | Iterable[nn.Module],
    optimizer: MegatronOptimizer,
    *,
    step: int = 0,
    **settings: Any,
) -> trainvitals.Agent:
    """
    Watch these model chunks (as Megatron's own functions pass them on: wrapped, one per virtual pipeline stage).

    Megatron's optimizers are no torch optimizers: those inside them are taken, and each fp32 master weight stands for
    the parameter that it is copied to. `settings` are those of `trainvitals.attach`.

    Tensor-, expert- and pipeline-parallel shards are plain tensors here; their layout is "unknown", so that ranks are
    not compared.
    """
    return trainvitals.attach(model, list(_inner(optimizer)), step=step, **settings)


def _inner(optimizer: Any) -> Iterable[Optimizer]:
    """A ChainedOptimizer has several, and each keeps its torch optimizer as `.optimizer`."""
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = getattr(each, "optimizer", each)
        if isinstance(inner, Optimizer):
            yield inner
