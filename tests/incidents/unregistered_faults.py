"""
Small trainers whose modules keep layers or statistics without registering them, each with the twin that does.
"""

from __future__ import annotations

import io

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs, perceptron, update
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


class _Branches(nn.Module):
    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 64), nn.Linear(64, 4)
        branches = {name: perceptron(64, 8, 64) for name in ("left", "right")}
        self.branches = nn.ModuleDict(branches) if registered else branches
        scales = [nn.Parameter(torch.ones(64)) for _ in range(2)]
        self.scales = nn.ParameterList(scales) if registered else tuple(scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        for branch, scale in zip(self.branches.values(), self.scales, strict=True):
            x = x + scale * branch(x)
        return self.head(x)  # type: ignore[no-any-return]


@FAULTS.of("tensor-unregistered", steps=30, onset=0, subject="branches['left'].0.weight")
def branches_in_a_dict(healthy: bool) -> Run:
    """A smaller part of the model is in a dict and a tuple."""
    model = _Branches(healthy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizer, functional.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


@FAULTS.of("tensor-unregistered", steps=30, onset=0, subject="branches['left'].0.weight")
def branches_trained_and_not_saved(healthy: bool) -> Run:
    """The optimizer was given them by hand; the checkpoint lacks them."""
    model = _Branches(healthy)
    every = [*model.stem.parameters(), *model.head.parameters(), *model.scales]
    every += [each for branch in model.branches.values() for each in branch.parameters()]
    optimizer = torch.optim.AdamW(every, lr=1e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, functional.cross_entropy(model(values), labels))
        if i == 20:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, io.BytesIO())
        return loss

    return Run(model, optimizer, step)


class _Gated(nn.Module):
    """A gate that is a parameter, or what an operation made of one."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        first = 0.1 * torch.randn(16, 4, dtype=torch.float64)
        self.gate = nn.Parameter(first.float()) if registered else nn.Parameter(first).float()
        self.experts = nn.ModuleList(perceptron(16, 8, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return ((x @ self.gate).softmax(-1)[..., None] * outputs).sum(1)


@FAULTS.of("tensor-unregistered", steps=30, onset=0, subject="gate")
def parameter_cast_after_it_was_made(healthy: bool) -> Run:
    """`nn.Parameter(...).to(...)` is a tensor with a history; the parameter itself hangs on that alone."""
    model = _Gated(healthy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(i: int) -> float:
        values, labels = blobs(i)
        return update(optimizer, functional.cross_entropy(model(values), labels))

    return Run(model, optimizer, step)


class _Whitening(nn.Module):
    """Sums of moments; after the paper, without a name that gives them away."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, registered: bool) -> None:
        super().__init__()
        for name, start in (("mean", torch.zeros(16)), ("std", torch.ones(16))):
            if registered:
                self.register_buffer(name, start)
            else:
                setattr(self, name, start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.lerp_(x.mean(0), 0.02)
        self.std.lerp_(x.std(0), 0.02)
        return (x - self.mean) / self.std


@FAULTS.of("tensor-unregistered", steps=60, onset=0, subject="0.mean")
def normaliser_of_plain_tensors(healthy: bool) -> Run:
    """The inputs' mean and deviation follow slowly, and are lost with every restart."""
    model = nn.Sequential(_Whitening(healthy), perceptron(16, 32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, functional.cross_entropy(model(3.0 + 2.0 * values), labels))
        if i == 40:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, io.BytesIO())
        return loss

    return Run(model, optimizer, step)
