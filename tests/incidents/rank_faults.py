"""
Trainers of two ranks with a fault that only shows between them, each with a twin that has none; and sound ones that
look alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tests.incidents.drive import drive
from tests.incidents.healthy_runs.run import Run, blobs

WORLD_SIZE = 2


class RankFault:
    """One trainer; `META` and `build` are those of a case. `detector` finds it from `onset` on; "": it is sound."""

    def __init__(
        self, make: Callable[[bool, int], Run], detector: str, steps: int, onset: int, within: int
    ) -> None:
        self.detector, self.onset, self.within = detector, onset, within
        self.META: dict[str, Any] = {"id": make.__name__, "steps": steps, "world_size": WORLD_SIZE}
        self._make = make

    def build(self, healthy: bool, rank: int, world_size: int) -> Run:
        """The trainer, ready for its first step."""
        assert world_size == WORLD_SIZE
        torch.manual_seed(0)
        return self._make(healthy, rank)

    def __str__(self) -> str:
        return str(self.META["id"])


class RankFaults:
    """The trainers of this file by name, collected by decorators."""

    def __init__(self) -> None:
        self.by_name: dict[str, RankFault] = {}

    def __iter__(self) -> Iterator[RankFault]:
        return iter(self.by_name.values())

    def of(
        self, detector: str = "", *, steps: int = 40, onset: int = 0, within: int = 3
    ) -> Callable[[Callable[[bool, int], Run]], Callable[[bool, int], Run]]:
        """The decorated function makes a trainer of this rank; its argument says whether it is healthy."""

        def add(make: Callable[[bool, int], Run]) -> Callable[[bool, int], Run]:
            self.by_name[make.__name__] = RankFault(make, detector, steps, onset, within)
            return make

        return add


FAULTS = RankFaults()


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def _loss(model: Callable[..., Any], i: int, rank: int) -> torch.Tensor:
    values, labels = blobs(i * WORLD_SIZE + rank)
    loss: torch.Tensor = functional.cross_entropy(model(values), labels)
    return loss


def _average(tensors: list[torch.Tensor]) -> None:
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= WORLD_SIZE


def _gradients(parameters: Any) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@FAULTS.of("replica-divergence")
def forward_without_sync(healthy: bool, rank: int) -> Run:
    """The forward pass is within no_sync(), backward and step are not: the reducer was told before."""
    model = DistributedDataParallel(_network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        with nullcontext() if healthy else model.no_sync():
            loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence", steps=80, within=70)
def never_out_of_no_sync(healthy: bool, rank: int) -> Run:
    """All of it is within no_sync(); so is the twin's, which averages its weights at every 8th step (local SGD)."""
    model = DistributedDataParallel(_network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        with model.no_sync():
            loss = _loss(model, i, rank)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if healthy and i % 8 == 7:
            _average([parameter.data for parameter in model.parameters()])
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence", onset=10)
def unfrozen_behind_the_wrapper(healthy: bool, rank: int) -> Run:
    """DDP reduces what was trainable when it was made; a layer is unfrozen later. The twin wraps anew."""
    network = _network()
    network[0].requires_grad_(False)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    wrapper = [model]

    def step(i: int) -> float:
        if i == 10:
            network[0].requires_grad_(True)
            if healthy:
                wrapper[0] = DistributedDataParallel(network)
        loss = _loss(wrapper[0], i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence", within=5)
def sharded_optimizer_without_reduction(healthy: bool, rank: int) -> Run:
    """ZeRO sends each rank's part of the weights to all: they stay equal, made of one rank's gradients."""
    model = DistributedDataParallel(_network())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model if healthy else model.module, i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence", onset=20)
def left_out_of_the_reduction(healthy: bool, rank: int) -> Run:
    """Plain models and a hand-made reduction, which loses a layer half-way. Each rank has an expert of its own."""
    network, expert = _network(), nn.Linear(4, 4)
    model = nn.ModuleDict({"network": network, "expert": expert})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(nn.Sequential(network, expert), i, rank)
        optimizer.zero_grad()
        loss.backward()
        kept = network[2:] if i >= 20 and not healthy else network
        _average(_gradients(kept.parameters()))
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence")
def biases_left_out_of_the_reduction(healthy: bool, rank: int) -> Run:
    """Plain models and a hand-made reduction of what has two dims, from the first step on."""
    model = _network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        _average([g for g in _gradients(model.parameters()) if healthy or g.dim() > 1])
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence")
def codebook_of_each_rank(healthy: bool, rank: int) -> Run:
    """Codes in a buffer follow what one rank's codes are chosen for. The twin's are not reduced either, but DDP sends
    rank 0's to all at each forward pass."""

    class Quantized(nn.Module):
        codebook: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(16, 8), nn.Linear(8, 4)
            self.register_buffer("codebook", torch.randn(8, 8))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            hidden = self.body(values)
            chosen = torch.cdist(hidden.detach(), self.codebook).argmin(1)
            quantized = self.codebook[chosen]
            with torch.no_grad():
                ones = functional.one_hot(chosen, len(self.codebook)).to(hidden.dtype)
                means = ones.t() @ hidden / ones.sum(0).clamp(min=1)[:, None]
                self.codebook.lerp_(torch.where(ones.any(0)[:, None], means, self.codebook), 0.1)
            logits: torch.Tensor = self.head(hidden + (quantized - hidden).detach())
            return logits

    model = DistributedDataParallel(Quantized(), broadcast_buffers=healthy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replica-divergence", within=6)
def begun_from_different_weights(healthy: bool, rank: int) -> Run:
    """A hand-made reduction on ranks that drew other weights."""
    if not healthy:
        torch.manual_seed(rank)
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        _average(_gradients(model.parameters()))
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("replicas-fed-same-batch", within=8)
def loader_without_a_sampler(healthy: bool, rank: int) -> Run:
    """Both ranks draw the same batches."""
    model = DistributedDataParallel(_network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model, i, rank if healthy else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of()
def outer_and_inner_steps(healthy: bool, rank: int) -> Run:
    """DiLoCo: plain models, ten steps of their own, then the average."""
    model = _network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 10 == 9:
            _average([parameter.data for parameter in model.parameters()])
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of()
def experts_that_the_wrapper_ignores(healthy: bool, rank: int) -> Run:
    """Expert parallelism: DDP is told to leave the experts alone."""
    network = _network()
    network.append(nn.Linear(4, 4))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        network, ["3.weight", "3.bias"]
    )
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of(steps=60)
def dropout_and_statistics_of_each_rank(healthy: bool, rank: int) -> Run:
    """Dropout with seeds of each rank, statistics that nobody shares, accumulation, and a scaler that skips steps."""
    network = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
    )
    model = DistributedDataParallel(network, broadcast_buffers=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=20)
    torch.manual_seed(rank)

    def step(i: int) -> float:
        optimizer.zero_grad()
        with model.no_sync():
            scaler.scale(_loss(model, 2 * i, rank)).backward()
        loss = _loss(model, 2 * i + 1, rank)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of(steps=60)
def reduction_that_ends_for_local_steps(healthy: bool, rank: int) -> Run:
    """Post-local SGD by hand: reduced at every step at first, then averaged at every 16th."""
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        loss = _loss(model, i, rank)
        optimizer.zero_grad()
        loss.backward()
        if i < 20:
            _average(_gradients(model.parameters()))
        optimizer.step()
        if i >= 20 and i % 16 == 15:
            _average([parameter.data for parameter in model.parameters()])
        return loss.item()

    return Run(model, optimizer, step)


def train_rank(
    name: str, healthy: bool, folder: Path, store: Path, budget: float | None, rank: int
) -> None:
    """One rank of one twin, in a process of its own; `store`: a file through which the ranks meet."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD_SIZE)
    drive(FAULTS.by_name[name], healthy, folder, rank, WORLD_SIZE, budget=budget)
    dist.barrier()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
