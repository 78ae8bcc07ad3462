"""
Small trainers whose gradients, learning rates or steps go wrong, and twins that look alike and are right.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs, perceptron, update
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


@FAULTS.of("gradient-zero", steps=30, onset=0, subject="weight")
def cleared_between_backward_and_step(healthy: bool) -> Run:
    """The call stands one line too low."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = functional.cross_entropy(model(values), labels)
        if healthy:
            optimizer.zero_grad()
        loss.backward()
        if not healthy:
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return Run(model, optimizer, step)


class _Coded(nn.Module):
    """An encoder whose code is rounded; `through`: the gradient passes straight through."""

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.encoder = perceptron(16, 32, 8)
        self.decoder = perceptron(8, 32, 4)
        self.through = through

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = self.encoder(x)
        rounded = code.round()
        if self.through:
            rounded = code + (rounded - code).detach()
        out: torch.Tensor = self.decoder(rounded)
        return out


@FAULTS.of("gradient-zero", steps=40, onset=0, subject="encoder")
def rounded_without_a_way_through(healthy: bool) -> Run:
    """Rounding has a gradient of zero; the twin takes the straight-through estimator."""
    model = _Coded(through=healthy)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Run(
        model, optimizer, lambda i: update(optimizer, functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
    )  # fmt: skip
