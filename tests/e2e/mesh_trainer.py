"""
Trainers for tests: the same small model alone, and laid out over meshes of ranks in every way that torch declares, one
way after the other in one group of processes; with the agent attached.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

import trainvitals

STEPS = 8
PARTED_AT = 4
IN, INNER, CLASSES = 96, 102, 3


class Net(nn.Module):
    """A pair of matrices that tensor parallelism cuts (102 rows: uneven once cut by two twice), a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(IN)
        self.up = nn.Linear(IN, INNER)
        self.down = nn.Linear(INNER, IN, bias=False)
        self.head = nn.Linear(IN, CLASSES)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        hidden = self.down(self.up(self.norm(values)).relu())
        out: torch.Tensor = self.head(values + hidden)
        return out


class HandCut(Net):
    """Tensor parallelism by hand, as Megatron-LM has it: plain tensors, of equal names and shapes on all ranks."""

    def cut(self, rank: int, world_size: int) -> None:
        """Keep this rank's rows of `up` and columns of `down`; the rest is the same on all ranks."""
        share = INNER // world_size
        mine = slice(rank * share, (rank + 1) * share)
        self.up.weight = nn.Parameter(self.up.weight.detach()[mine].clone())
        self.up.bias = nn.Parameter(self.up.bias.detach()[mine].clone())
        self.down.weight = nn.Parameter(self.down.weight.detach()[:, mine].clone())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        normed = _Copy.apply(self.norm(values))
        hidden = _Sum.apply(self.down(self.up(normed).relu()))
        out: torch.Tensor = self.head(values + hidden)
        return out


class _Copy(torch.autograd.Function):
    """Forward nothing, backward the sum over ranks."""

    @staticmethod
    def forward(_ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient


class _Sum(torch.autograd.Function):
    """Forward the sum over ranks, backward nothing."""

    @staticmethod
    def forward(_ctx: Any, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def alone() -> nn.Module:
    """One process."""
    return Net()


def tensor_parallel() -> nn.Module:
    """Shard(0) and Shard(1); norm and head are plain, and the same on all ranks."""
    model = Net()
    _cut(model, init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",)))
    return model


def fsdp_and_tensor_parallel() -> nn.Module:
    """Cut by tensor parallelism along one axis, by FSDP2 along the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    model = Net()
    _cut(model, mesh["tp"])
    return _sharded(model, mesh["dp"])


def hybrid() -> nn.Module:
    """HSDP: cut along one axis, replicated along the other."""
    names = ("replicate", "shard")
    return _sharded(Net(), init_device_mesh("cpu", (2, 2), mesh_dim_names=names))


def hybrid_that_parts() -> nn.Module:
    """The same; `main` nudges one rank's part."""
    return hybrid()


def hand_cut() -> nn.Module:
    """Nobody says which part a rank holds."""
    model = HandCut()
    model.cut(dist.get_rank(), dist.get_world_size())
    return model


def _cut(model: Net, mesh: DeviceMesh) -> None:
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def _sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    # gloo has no average: sum, then divide (pytorch's own switch for it)
    cast(Any, fully_shard(model, mesh=mesh)).set_force_sum_reduction_for_comms(True)
    return model


MODES: dict[str, Callable[[], nn.Module]] = {
    build.__name__: build
    for build in (
        alone, tensor_parallel, fsdp_and_tensor_parallel, hybrid, hybrid_that_parts, hand_cut,
    )
}  # fmt: skip


def train(mode: str, folder: str) -> None:
    """The same batches on every rank."""
    torch.manual_seed(0)
    model = MODES[mode]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    agent = trainvitals.attach(
        model, optimizer, run=mode, attempt="first", monitor=f"{folder}/{mode}", budget=None, quiet=True
    )  # fmt: skip
    for step in range(STEPS):
        torch.manual_seed(step)
        values, labels = torch.randn(16, IN), torch.randint(0, CLASSES, (16,))
        loss = functional.cross_entropy(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(step=step + 1, loss=loss)
        if mode == "hybrid_that_parts" and step + 1 == PARTED_AT - 1 and dist.get_rank() == 3:
            with torch.no_grad():
                cast(Any, model.get_parameter("up.weight"))._local_tensor.mul_(1.01)
    assert agent.coverage()["switched_off"] == {}, agent.coverage()
    assert agent.coverage()["steps"] == STEPS
    agent.close()


def main(modes: str, folder: str, rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
        )
    for mode in modes.split(","):
        train(mode, folder)
    if world_size > 1:
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
