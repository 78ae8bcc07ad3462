"""
A trainer for tests: the same small model, trained alone, under DDP, or under FSDP2, with the agent attached.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import trainvitals

STEPS = 6


class Net(nn.Module):
    """Uneven dims (7 rows over 2 ranks), a large matrix that is read by cores, stacked experts, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 96)
        self.hidden = nn.Linear(96, 97)
        self.experts = nn.Parameter(torch.randn(5, 97, 24) * 0.1)
        self.head = nn.Linear(24, 3)
        self.register_buffer("expert_bias", torch.arange(5.0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(self.embedding(ids)).relu()
        mixed: torch.Tensor = torch.einsum("bd,edh->bh", hidden, self.experts)
        out: torch.Tensor = self.head(mixed + self.get_buffer("expert_bias").mean() * 0.1)
        return out


def main(mode: str, folder: str, rank: int, world_size: int, store: str) -> None:
    torch.set_num_threads(1)
    if mode != "alone":
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
        )
    torch.manual_seed(0)
    net = Net()
    model: nn.Module = net
    if mode == "ddp":
        model = DistributedDataParallel(model)
    if mode == "fsdp2":
        mesh = init_device_mesh("cpu", (world_size,))
        for part in (net.head, net):
            # gloo has no average: sum, then divide (pytorch's own switch for it)
            fully_shard(part, mesh=mesh).set_force_sum_reduction_for_comms(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent = trainvitals.attach(
        model, optimizer, run=mode, attempt="first", monitor=folder, budget=None, quiet=True
    )
    for step in range(STEPS):
        torch.manual_seed(step)
        ids, labels = torch.randint(0, 7, (8,)), torch.randint(0, 3, (8,))
        loss = nn.functional.cross_entropy(model(ids), labels)  # the same batch on every rank
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        agent.log(step=step + 1, loss=loss)
    assert agent.coverage()["switched_off"] == {}, agent.coverage()
    assert agent.coverage()["steps"] == STEPS
    agent.close()
    if mode != "alone":
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
