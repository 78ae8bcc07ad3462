"""
Trainers for tests: sound trainings on two ranks whose optimizer does not hold the model's own parameters as they are:
master weights, flat shards, partitions; with the agent attached.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

import trainvitals

STEPS = 40
BATCH = 16
Made = tuple[nn.Module, Optimizer, Callable[[], None]]
"""The model, what steps, and the whole update: gradients to the optimizer, its step, weights back."""


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(32, 24), nn.Linear(24, 65), nn.ReLU(), nn.LayerNorm(65), nn.Linear(65, 5)
    )


def _averaged(gradient: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(gradient)
    return gradient / dist.get_world_size()


def fsdp1() -> Made:
    """FSDP1, which shows views of its flat parameters as the original ones."""
    return _fsdp1(use_orig_params=True)


def fsdp1_flat() -> Made:
    """FSDP1 with its flat parameters, and nothing else."""
    return _fsdp1(use_orig_params=False)


def _fsdp1(use_orig_params: bool) -> Made:
    model = FullyShardedDataParallel(
        _net(), device_id=torch.device("cpu"), use_orig_params=use_orig_params
    )
    optimizer = AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, optimizer.step


def zero_redundancy() -> Made:
    """torch's ZeRO-1: each rank's optimizer holds whole parameters, but not all of them."""
    model = DistributedDataParallel(_net())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), AdamW, lr=1e-2)
    return model, optimizer, optimizer.step


def zero_redundancy_buckets() -> Made:
    """The same, with parameters that are views of its buckets."""
    model = DistributedDataParallel(_net(), gradient_as_bucket_view=True)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(), AdamW, lr=1e-2, parameters_as_bucket_view=True
    )
    return model, optimizer, optimizer.step


def masters() -> Made:
    """fp32 clones, named as Megatron-LM names them; gradients in `main_grad`."""
    return _masters(named=True)


def masters_nobody_named() -> Made:
    """fp32 clones that nothing leads to from the model, as in many scripts."""
    return _masters(named=False)


def _masters(named: bool) -> Made:
    model = _net().bfloat16()
    parameters = list(model.parameters())
    clones = [nn.Parameter(parameter.detach().float().clone()) for parameter in parameters]
    for parameter, clone in zip(parameters, clones, strict=True):
        if named:
            cast(Any, parameter).main_param = clone
    optimizer = AdamW(clones, lr=1e-2)

    def update() -> None:
        for parameter, clone in zip(parameters, clones, strict=True):
            assert parameter.grad is not None
            gradient = _averaged(parameter.grad.float())
            if named:
                cast(Any, parameter).main_grad = gradient
            clone.grad, parameter.grad = gradient, None
        optimizer.step()
        with torch.no_grad():
            for parameter, clone in zip(parameters, clones, strict=True):
                parameter.copy_(clone)

    return model, optimizer, update


def sharded_masters() -> Made:
    """As Megatron-LM's distributed optimizer: a rank has flat fp32 pieces of some parameters, and none of others."""
    return _flat(named=True, whole=False)


def flat_partition() -> Made:
    """As ZeRO-1 and 2: one flat fp32 range a rank, of all parameters laid end to end."""
    return _flat(named=False, whole=True)


def _flat(named: bool, whole: bool) -> Made:
    model = _net().bfloat16()
    parameters = list(model.parameters())
    flat = torch.cat([parameter.detach().float().flatten() for parameter in parameters])
    world_size, rank = dist.get_world_size(), dist.get_rank()
    size = -(-flat.numel() // world_size)
    flat = functional.pad(flat, (0, size * world_size - flat.numel()))
    low, high = rank * size, (rank + 1) * size
    pieces = [nn.Parameter(flat[low:high].clone())] if whole else []
    ranges = [(low, high)] if whole else []
    start = 0
    for parameter in [] if whole else parameters:
        mine = max(start, low), min(start + parameter.numel(), high)
        start += parameter.numel()
        if mine[0] < mine[1]:
            pieces.append(nn.Parameter(flat[mine[0] : mine[1]].clone()))
            ranges.append(mine)
            if named:
                cast(Any, parameter).main_param = pieces[-1]
                cast(Any, parameter).main_param_sharded = True
    optimizer = AdamW(pieces, lr=1e-2)

    def update() -> None:
        gradients = torch.cat([cast(Any, p.grad).float().flatten() for p in parameters])
        gradients = _averaged(functional.pad(gradients, (0, flat.numel() - gradients.numel())))
        for piece, (first, last) in zip(pieces, ranges, strict=True):
            piece.grad = gradients[first:last].clone()
        start = 0
        for parameter in parameters:
            if named:
                part = gradients[start : start + parameter.numel()]
                cast(Any, parameter).main_grad = part.view_as(parameter)
            start += parameter.numel()
            parameter.grad = None
        optimizer.step()
        full = torch.zeros_like(flat)
        for piece, (first, last) in zip(pieces, ranges, strict=True):
            full[first:last] = piece.detach()
        dist.all_reduce(full)
        start = 0
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(full[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()

    return model, optimizer, update


MODES: dict[str, Callable[[], Made]] = {
    build.__name__: build
    for build in (
        fsdp1, fsdp1_flat, zero_redundancy, zero_redundancy_buckets,
        masters, masters_nobody_named, sharded_masters, flat_partition,
    )
}  # fmt: skip


def train(mode: str, folder: str) -> None:
    """Batches of its own on each rank."""
    torch.manual_seed(0)
    model, optimizer, update = MODES[mode]()
    agent = trainvitals.attach(
        model, optimizer, run=mode, attempt="first", monitor=f"{folder}/{mode}", budget=None, quiet=True
    )  # fmt: skip
    for step in range(STEPS):
        torch.manual_seed(step * dist.get_world_size() + dist.get_rank())
        ids = torch.randint(0, 32, (BATCH,))
        loss = functional.cross_entropy(model(ids).float(), ids % 5)
        model.zero_grad()
        loss.backward()
        update()
        agent.log(step=step + 1, loss=loss)
    assert agent.coverage()["switched_off"] == {}, agent.coverage()
    assert agent.coverage()["steps"] == STEPS
    agent.close()


def main(modes: str, folder: str, rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for mode in modes.split(","):
        train(mode, folder)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
