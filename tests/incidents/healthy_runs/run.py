"""
What a healthy run is: a trainer in which nothing is wrong, with the interface of the corpus's cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn


@dataclass
class Run:
    """A trainer: `step(i)` trains one step and returns its loss. `renew` when its objects are made anew, as by a restart."""

    model: nn.Module
    optimizer: Any
    step: Callable[[int], float]
    generation: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def renew(self, model: nn.Module, optimizer: Any) -> None:
        """The trainer restarts: a monitor must attach again."""
        self.model, self.optimizer = model, optimizer
        self.generation += 1


class Healthy:
    """A run that must stay silent; `META` and `build` are those of a case."""

    def __init__(self, name: str, steps: int, make: Callable[[], Run]) -> None:
        self.META: dict[str, Any] = {
            "id": name,
            "steps": steps,
            "family": "healthy",
            "world_size": 1,
        }
        self._make = make

    def build(self, healthy: bool = True, rank: int = 0, world_size: int = 1) -> Run:
        """The trainer, ready for its first step; the same at every call."""
        torch.manual_seed(0)
        return self._make()

    def __str__(self) -> str:
        return str(self.META["id"])


class HealthyRuns:
    """The healthy runs of one file, collected by decorators."""

    def __init__(self) -> None:
        self._found: list[Healthy] = []

    def __iter__(self) -> Iterator[Healthy]:
        return iter(self._found)

    def of(self, steps: int) -> Callable[[Callable[[], Run]], Callable[[], Run]]:
        """The decorated function makes a trainer for so many steps."""

        def add(make: Callable[[], Run]) -> Callable[[], Run]:
            self._found.append(Healthy(make.__name__, steps, make))
            return make

        return add


def generator(*key: int) -> torch.Generator:
    """Random numbers that depend on the key alone, so that a batch is the same after a resume."""
    seed = 17
    for part in key:
        seed = (seed * 1000003 + part + 7919) % 2**31
    return torch.Generator().manual_seed(seed)


def blobs(
    step: int, size: int = 32, dims: int = 16, classes: int = 4, noise: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of noisy points around one centre per class: values [size, dims], labels [size]."""
    centres = torch.randn(classes, dims, generator=generator(1))
    draw = generator(2, step)
    labels = torch.randint(0, classes, (size,), generator=draw)
    return centres[labels] + noise * torch.randn(size, dims, generator=draw), labels


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def update(
    optimizers: Any | Sequence[Any], loss: torch.Tensor, clip: Iterable[nn.Parameter] = ()
) -> float:
    """One ordinary update; gradients of `clip` are clipped to 1."""
    optimizers = optimizers if isinstance(optimizers, Sequence) else [optimizers]
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    parameters = list(clip)
    if parameters:
        nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def warm_up_and_cosine(warm_up: int, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate: from 0 up to 1, then along a cosine down to 0."""

    def factor(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        done = min(1.0, (step - warm_up) / (steps - warm_up))
        return 0.5 * (1 + math.cos(math.pi * done))

    return factor
