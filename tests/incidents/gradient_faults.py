"""
Small trainers whose gradients, learning rates or steps go wrong, and twins that look alike and are right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, LinearLR

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


def _scheduled(factor: Callable[[int], float], schedule_steps: int = 1) -> Run:
    """A trainer whose scheduler is stepped so often in each step."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = LambdaLR(optimizer, factor)

    def step(i: int) -> float:
        loss = update(optimizer, functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
        for _ in range(schedule_steps):
            schedule.step()
        return loss

    return Run(model, optimizer, step)


@FAULTS.of("steps-skipped", steps=60, onset=0)
def scaler_made_anew_at_each_step(healthy: bool) -> Run:
    """It begins with a scale that overflows each time; the one that is kept comes down and trains."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scalers: list[torch.amp.GradScaler] = []

    def step(i: int) -> float:
        if not (scalers and healthy):
            scalers[:] = [torch.amp.GradScaler("cpu", init_scale=2.0**127)]
        scaler = scalers[0]
        loss = 4 * functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Run(model, optimizer, step)


@FAULTS.of("learning-rate-zero", steps=80, onset=20)
def schedule_stepped_per_microbatch(healthy: bool) -> Run:
    """A decay over 80 steps that is stepped four times in each; the twin's ends with the training."""
    return _scheduled(lambda i: max(0.0, 1 - i / 80), 1 if healthy else 4)


@FAULTS.of("learning-rate-zero", steps=60, onset=0)
def warm_up_never_stepped(healthy: bool) -> Run:
    """A warm-up from zero whose scheduler nobody steps."""
    return _scheduled(lambda i: min(1.0, i / 20), int(healthy))


@FAULTS.of("learning-rate-zero", steps=60, onset=31, subject="weight")
def decay_without_a_bound(healthy: bool) -> Run:
    """A linear decay over 30 steps goes on below zero; the twin's is over 60."""
    return _scheduled(lambda i: 1 - i / (60 if healthy else 30))


def floor_reached_too_soon(healthy: bool) -> Run:
    """LinearLR to a tenth over 120 steps, stepped as often as there are microbatches, four; the twin's once per step."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=120)

    def step(i: int) -> float:
        optimizer.zero_grad()
        total = 0.0
        for part in range(4):
            values, labels = blobs(4 * i + part)
            loss = functional.cross_entropy(model(values), labels) / 4
            loss.backward()
            total += loss.item()
        optimizer.step()
        for _ in range(1 if healthy else 4):
            schedule.step()
        return total

    return Run(model, optimizer, step)


@FAULTS.of("learning-rate-vanished", steps=90, onset=47)
def decay_for_epochs_in_every_step(healthy: bool) -> Run:
    """A quarter less in every step; the twin's in every 30th."""
    return _scheduled(lambda i: 0.75 ** (i // 30 if healthy else i))


@FAULTS.of("learning-rate-zero", steps=60, onset=0, subject="0.weight")
def rate_assigned_behind_the_loop(healthy: bool) -> Run:
    """An optimizer made with a rate of zero; only the last group is given one."""
    model = perceptron(16, 32, 4)
    groups = [{"params": list(layer.parameters())} for layer in (model[0], model[2])]
    optimizer = torch.optim.AdamW(groups, lr=0.0)

    def step(i: int) -> float:
        for group in optimizer.param_groups if healthy else optimizer.param_groups[-1:]:
            group["lr"] = 3e-3 * min(1.0, (i + 1) / 10)
        return update(optimizer, functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))

    return Run(model, optimizer, step)


class _Deep(nn.Module):
    """Sixteen layers; `residual`: each adds to what comes in."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(16))
        self.head = nn.Linear(16, 4)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            new = layer(x).sigmoid()
            x = x + new if self.residual else new
        out: torch.Tensor = self.head(x)
        return out


@FAULTS.of("gradient-vanishing", steps=40, onset=0, subject="layers.0.weight")
def sixteen_sigmoids(healthy: bool) -> Run:
    """Nothing reaches the first layers; the twin's have a way around."""
    model = _Deep(residual=healthy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return Run(
        model, optimizer, lambda i: update(optimizer, functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1]))
    )  # fmt: skip


@FAULTS.of("update-ratio-out-of-range", steps=40, onset=0, subject="weight")
def gradients_divided_twice(healthy: bool) -> Run:
    """By the loss scale: once by hand, and once by the scaler."""
    model = perceptron(16, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)

    def step(i: int) -> float:
        loss = functional.cross_entropy(model(blobs(i)[0]), blobs(i)[1])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if not healthy:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return Run(model, optimizer, step)
