"""
Small trainers that save an average and go on from it, with the twin that swaps back; and some that look alike and are sound.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()
SOUND = StateFaults()
"""`healthy` makes no difference to these."""

Between = Callable[[int, nn.Module, torch.optim.Optimizer], None]


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def _run(model: nn.Module, optimizer: torch.optim.Optimizer, between: Between) -> Run:
    """A classifier; `between` is called after each step."""

    def step(i: int) -> float:
        values, labels = blobs(i)
        loss = functional.cross_entropy(model(values), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        between(i, model, optimizer)
        return loss.item()

    return Run(model, optimizer, step)


def _save(model: nn.Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "weights.pt")


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        other.copy_(one)


def _averaged(make: Callable[[nn.Module], torch.optim.Optimizer], healthy: bool) -> Run:
    """An average is copied in, parameter by parameter, to be saved every 20 steps."""
    model = _network()
    average = copy.deepcopy(model)

    def between(i: int, model: nn.Module, _: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 0.01)
        if i % 20 == 19:
            trained = copy.deepcopy(model)
            _copy(average, model)
            _save(model)
            if healthy:
                _copy(trained, model)

    return _run(model, make(model), between)


@FAULTS.of("weights-overwritten", steps=50, onset=19, subject="weight")
def average_left_after_a_save(healthy: bool) -> Run:
    """AdamW; the twin keeps the trained weights aside."""
    return _averaged(lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3), healthy)


@FAULTS.of("weights-overwritten", steps=50, onset=19, subject="weight")
def average_left_under_nadam(healthy: bool) -> Run:
    """NAdam."""
    return _averaged(lambda model: torch.optim.NAdam(model.parameters(), lr=3e-3), healthy)


@SOUND.of("", steps=60, onset=0)
def lookahead(healthy: bool) -> Run:
    """Slow weights go half of the way every five steps, and are saved as they are taken over."""
    model = _network()
    slow = copy.deepcopy(model)

    def between(i: int, model: nn.Module, _: torch.optim.Optimizer) -> None:
        if i % 5 == 4:
            with torch.no_grad():
                for mean, now in zip(slow.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 0.5)
            _copy(slow, model)
            _save(model)

    return _run(model, torch.optim.AdamW(model.parameters(), lr=3e-3), between)


@SOUND.of("", steps=60, onset=0)
def rolled_back_to_the_last_save(healthy: bool) -> Run:
    """Saves every ten steps; at two of them the weights of 20 steps ago are loaded, with the optimizer's state."""
    model = _network()
    kept: list[tuple[dict[str, torch.Tensor], dict[str, object]]] = []

    def between(i: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if i % 10 == 9:
            kept.append((copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())))
            _save(model)
        if i in (29, 49):
            weights, moments = kept[-3]
            model.load_state_dict(weights)
            optimizer.load_state_dict(moments)

    return _run(model, torch.optim.AdamW(model.parameters(), lr=3e-3), between)


@SOUND.of("", steps=60, onset=0)
def shrunk_and_perturbed(healthy: bool) -> Run:
    """Warm starts: weights are shrunk and noise is added on purpose, then saved for the next stage."""
    model = _network()

    def between(i: int, model: nn.Module, _: torch.optim.Optimizer) -> None:
        if i == 29:
            _save(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.6).add_(torch.randn_like(parameter), alpha=0.02)

    return _run(model, torch.optim.AdamW(model.parameters(), lr=3e-3), between)


@SOUND.of("", steps=60, onset=0)
def one_layer_drawn_anew(healthy: bool) -> Run:
    """The last layer begins again at each stage; the model is saved as it goes on."""
    model = _network()

    def between(i: int, model: nn.Module, _: torch.optim.Optimizer) -> None:
        if i % 20 == 19:
            nn.init.normal_(model.get_parameter("4.weight"), std=0.2)
            _save(model)

    return _run(model, torch.optim.AdamW(model.parameters(), lr=3e-3), between)


@SOUND.of("", steps=60, onset=0)
def clipped_weights(healthy: bool) -> Run:
    """A critic's weights are clipped after each step, and saved now and then."""
    model = _network()

    def between(i: int, model: nn.Module, _: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.clamp_(-0.1, 0.1)
        if i % 10 == 9:
            _save(model)

    return _run(model, torch.optim.RMSprop(model.parameters(), lr=3e-3), between)
