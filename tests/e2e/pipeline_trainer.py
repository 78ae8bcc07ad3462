"""
A trainer for tests: one model over two pipeline stages of torch.distributed.pipelining, with the agent on both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional

import trainvitals

STEPS, LAYERS, MICROBATCHES = 24, 4, 4
SCHEDULES: dict[str, Any] = {"gpipe": ScheduleGPipe, "one_f_one_b": Schedule1F1B}


class Block(nn.Module):
    """Pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 16)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = hidden + self.outer(self.inner(self.norm(hidden)).relu())
        return out


class Part(nn.Module):
    """The layers of one stage, under the names that they have in the whole model; the last one has the head."""

    def __init__(self, layers: Iterable[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(number): Block() for number in layers})
        self.head = nn.Linear(16, 4) if str(LAYERS - 1) in self.layers else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.layers.values():
            hidden = block(hidden)
        return hidden if self.head is None else self.head(hidden)


def train(name: str, folder: str) -> None:
    """Microbatches of one batch run through both stages."""
    rank, stages = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    share = LAYERS // stages
    model = Part(range(rank * share, (rank + 1) * share))
    stage = PipelineStage(model, rank, stages, torch.device("cpu"))
    schedule = SCHEDULES[name](stage, MICROBATCHES, loss_fn=functional.cross_entropy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent = trainvitals.attach(
        model, optimizer, run=name, attempt="first", mesh={"pp": (rank, stages)},
        monitor=f"{folder}/{name}", budget=None, quiet=True,
    )  # fmt: skip
    for step in range(STEPS):
        torch.manual_seed(step)
        values = torch.randn(32, 16)
        losses: list[torch.Tensor] = []
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(values)
        else:
            schedule.step(target=values[:, :4].argmax(1), losses=losses)
        optimizer.step()
        agent.log(step=step + 1, loss=torch.stack(losses).mean() if losses else None)
    assert agent.coverage()["switched_off"] == {}, agent.coverage()
    assert "is not declared" in agent.coverage()["limits"][0]
    agent.close()


def main(names: str, folder: str, rank: int, store: str) -> None:
    """Two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name in names.split(","):
        train(name, folder)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
