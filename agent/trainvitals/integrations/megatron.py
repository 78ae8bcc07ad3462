"""
Megatron-LM (megatron-core): model chunks and the optimizer that holds their master weights.

    model, optimizer, scheduler = setup_model_and_optimizer(...)
    agent = attach(model, optimizer, step=args.iteration)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from megatron.core import parallel_state
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

    The mesh is Megatron's parallel state. Parameters that are cut (by tensor or expert parallelism) are plain tensors
    whose part nobody declares, so that nothing is said of other ranks' parts; the others are known for replicas, and compared.
    """
    return trainvitals.attach(
        model,
        list(_inner(optimizer)),
        step=step,
        **{"mesh": _mesh(), "replicas": _replicas, **settings},
    )


def _mesh() -> dict[str, tuple[int, int]]:
    """This rank's place on each axis."""
    if not parallel_state.model_parallel_is_initialized():
        return {}
    names = {
        "pp": "pipeline_model_parallel",
        "dp": "data_parallel",
        "cp": "context_parallel",
        "tp": "tensor_model_parallel",
        "ep": "expert_model_parallel",
    }
    return {
        axis: tuple(
            getattr(parallel_state, f"get_{name}_{what}")() for what in ("rank", "world_size")
        )
        for axis, name in names.items()
    }


def _replicas(tensor: torch.Tensor) -> list[int]:
    """The ranks of this pipeline stage that hold the very same parameter; none for one that is cut, and for buffers."""
    if not isinstance(tensor, nn.Parameter) or not parallel_state.model_parallel_is_initialized():
        return []
    is_expert = not getattr(tensor, "allreduce", True)
    if is_expert:
        if parallel_state.get_expert_model_parallel_world_size() > 1:
            return []
        group = parallel_state.get_expert_data_parallel_group()
    elif parallel_state.get_tensor_model_parallel_world_size() == 1:
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    elif getattr(tensor, "tensor_model_parallel", False):
        return []
    else:
        group = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
    return list(torch.distributed.get_process_group_ranks(group))


def _inner(optimizer: Any) -> Iterable[Optimizer]:
    """A ChainedOptimizer has several, and each keeps its torch optimizer as `.optimizer`."""
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = getattr(each, "optimizer", each)
        if isinstance(inner, Optimizer):
            yield inner
