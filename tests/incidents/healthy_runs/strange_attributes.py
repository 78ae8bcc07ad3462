"""
Short trainings whose modules keep tensors and networks as plain attributes, and are right to do so.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.incidents.healthy_runs.run import HealthyRuns, Run, blobs, generator, perceptron, update

RUNS = HealthyRuns()


def _save(model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}
    torch.save(state, io.BytesIO())


class _Notes(nn.Module):
    """Keeps what a notebook would: the last outputs, constants, references to itself, counts, smoothed records."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = perceptron(16, 32), nn.Linear(32, 4)
        self.mask = torch.ones(32)
        self.frequencies = [10.0 ** -torch.arange(8.0), torch.arange(8)]
        self.names = [f"name {i}" for i in range(10_000)]
        self.weight_ref, self.parts = self.head.weight, {"first": self.head.weight.data[:2]}
        self.layers_again = [self.body, self.head]
        self.generator = torch.Generator().manual_seed(1)
        self.last_logits = torch.zeros(32, 4)
        self.hidden = (torch.zeros(32, 32), torch.zeros(32, 32))
        self.confusion = torch.zeros(4, 4)
        self.loss_average, self.losses = torch.tensor(0.0), torch.zeros(50)
        self.merged: torch.Tensor = torch.zeros(4, 32)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.body(x)) * self.mask
        self.activations = hidden
        logits = self.head(hidden)
        self.last_logits = logits.detach()
        self.hidden = (hidden.detach(), (0.5 * self.hidden[0] + hidden).detach())
        self.confusion[labels, logits.argmax(1)] += 1
        self.merged = 2.0 * self.head.weight.detach()
        loss = F.cross_entropy(logits, labels)
        self.loss_average = 0.9 * self.loss_average + 0.1 * loss.detach()
        self.losses = torch.cat([self.losses[1:], loss.detach()[None]])
        return loss


@RUNS.of(80)
def notes_in_attributes() -> Run:
    """Outputs, states, counts, constants and references, none of which a checkpoint needs."""
    model = _Notes()
    model.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)  # type: ignore[assignment]
    optimizer: Any = model.optimizer

    def step(i: int) -> float:
        loss = update(optimizer, model(*blobs(i)))
        if i % 30 == 20:
            _save(model, optimizer)
        return loss

    return Run(model, optimizer, step)


class _Student(nn.Module):
    """Has a teacher that its state is not to hold: an average, frozen; and one that is only never asked for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(16, 32, 4)
        F.cross_entropy(
            self.net(blobs(0)[0]), blobs(0)[1]
        ).backward()  # copies bring this gradient along
        self.teacher = [copy.deepcopy(self.net).requires_grad_(False)]
        self.first = {"net": copy.deepcopy(self.net)}
        self.shadow = {name: each.detach().clone() for name, each in self.net.named_parameters()}

    @torch.no_grad()
    def follow(self) -> None:
        for mine, its in zip(self.net.parameters(), self.teacher[0].parameters(), strict=True):
            its.lerp_(mine, 0.05)
        for name, each in self.net.named_parameters():
            self.shadow[name].lerp_(each, 0.05)


@RUNS.of(80)
def teachers_in_a_list() -> Run:
    """A frozen average, a copy of the beginning, and a dict of averaged weights, all out of the state on purpose."""
    model = _Student()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        with torch.no_grad():
            wanted = model.teacher[0](values) + 0.1 * model.first["net"](values)
        logits = model.net(values)
        loss = update(optimizer, F.cross_entropy(logits, labels) + F.mse_loss(logits, wanted))
        model.follow()
        if i % 30 == 20:
            _save(model, optimizer, shadow=model.shadow)
        return loss

    return Run(model, optimizer, step)


class _Painter(nn.Module):
    """A generator that knows its critic, which is trained and saved by itself, and judges by fixed features."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(8, 32, 16)
        self.critic = [perceptron(16, 32, 1)]
        self.features = (perceptron(16, 32).eval(),)


@RUNS.of(100)
def a_critic_in_a_list() -> Run:
    """The critic has an optimizer of its own; the features get gradients that nobody wants."""
    model = _Painter()
    critic, features = model.critic[0], model.features[0]
    mine = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.9))
    its = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))

    def step(i: int) -> float:
        real = blobs(i)[0]
        fake = model.net(torch.randn(len(real), 8, generator=generator(3, i)))
        update(its, F.softplus(critic(fake.detach())).mean() + F.softplus(-critic(real)).mean())
        alike = F.mse_loss(features(fake).mean(0), features(real).mean(0))
        loss = update(mine, F.softplus(-critic(fake)).mean() + 0.1 * alike)
        if i % 40 == 30:
            _save(model, mine)
            _save(critic, its)
        return loss

    return Run(model, mine, step)


class _Standard(nn.Module):
    """Running statistics as plain attributes, that it saves and loads itself: beside its tensors, or in a file."""

    def __init__(self, extra: bool) -> None:
        super().__init__()
        self.extra = extra
        self.running_mean, self.running_var = torch.zeros(16), torch.ones(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.running_mean = self.running_mean + 0.1 * (x.mean(0) - self.running_mean)
        self.running_var.lerp_(x.var(0), 0.1)
        return (x - self.running_mean) / (self.running_var + 1e-5).sqrt()

    def state_dict(self, *args: Any, **keywords: Any) -> Any:
        state = super().state_dict(*args, **keywords)
        if self.extra:
            prefix = keywords.get("prefix", "")
            state[f"{prefix}running_mean"] = self.running_mean.clone()
            state[f"{prefix}running_var"] = self.running_var.clone()
        return state


@RUNS.of(60)
def statistics_saved_by_hand() -> Run:
    """Two normalisers: one puts its statistics into the state itself, the other's go into a file of their own."""
    model = nn.Sequential(_Standard(extra=True), _Standard(extra=False), perceptron(16, 32, 4))
    second: Any = model[1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, F.cross_entropy(model(5.0 + 3.0 * values), labels))
        if i % 20 == 18:
            _save(model, optimizer)
            torch.save([second.running_mean, second.running_var], io.BytesIO())
        return loss

    return Run(model, optimizer, step)


@RUNS.of(40)
def statistics_pickled_with_the_model() -> Run:
    """The module is saved as it is, attributes and all."""
    model = nn.Sequential(_Standard(extra=False), perceptron(16, 32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = update(optimizer, F.cross_entropy(model(5.0 + 3.0 * values), labels))
        if i % 20 == 18:
            torch.save({"model": model, "optimizer": optimizer.state_dict()}, io.BytesIO())
        return loss

    return Run(model, optimizer, step)
