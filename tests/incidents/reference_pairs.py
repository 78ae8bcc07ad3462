"""
Small trainers that can be changed in one thing: what a run is compared with, and what it must be told apart from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs, generator

VOCABULARY = 24


@dataclass(kw_only=True)
class Trainer:
    """
    One script with its settings; `META` and `build` are those of a case.

    `divided`: once, twice. `noise`: every weight one ulp off at the start with probability a half.
    """

    model: str = "perceptron"
    optimizer: str = "AdamW"
    seed: int = 0
    data: int = 0
    steps: int = 48
    divided: int = 1
    init_scale: float = 1.0
    dropout: float = 0.1
    head_rate: float = 3.0
    weight_decay: float = 0.01
    noise: bool = False
    threads: int = 1
    dtype: torch.dtype = torch.float32
    META: dict[str, Any] = field(default_factory=dict)

    def build(self, healthy: bool = True, rank: int = 0, world_size: int = 1) -> Run:
        """The trainer, ready for its first step."""
        torch.manual_seed(self.seed)
        torch.set_num_threads(self.threads)
        model = MODELS[self.model](self.dropout).to(self.dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(self.init_scale)
                if self.noise:
                    _nudge(parameter)
        head = list(model.head.parameters())
        body = [p for name, p in model.named_parameters() if not name.startswith("head.")]
        made = getattr(torch.optim, self.optimizer)
        groups = [{"params": body}, {"params": head, "lr": 3e-3 * self.head_rate}]
        optimizer = made(groups, lr=3e-3, weight_decay=self.weight_decay)
        parts = 4

        def step(i: int) -> float:
            optimizer.zero_grad()
            total = 0.0
            for part in range(parts):
                loss = model.loss(parts * i + part + 1000 * self.data)
                (loss / parts**self.divided).backward()
                total += loss.item() / parts
            optimizer.step()
            return total

        return Run(model, optimizer, step)

    def case(self, name: str) -> Trainer:
        """With the META of a case."""
        self.META.update({"id": name, "steps": self.steps, "world_size": 1})
        return self


def _nudge(parameter: torch.Tensor) -> None:
    up = torch.rand(parameter.shape, generator=generator(5)) < 0.5
    moved = torch.nextafter(parameter, torch.tensor(torch.inf, dtype=parameter.dtype))
    parameter.copy_(torch.where(up, moved, parameter))


class Perceptron(nn.Module):
    """Points with batch norm and dropout; the biases before the norms have gradients of rounding only."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 4)

    def loss(self, i: int) -> torch.Tensor:
        """Of one microbatch."""
        values, labels = blobs(i, size=16)
        values = values.to(self.head.weight.dtype)
        return functional.cross_entropy(self.head(self.body(values)).float(), labels)


class Language(nn.Module):
    """A transformer of one layer; the biases of its keys have gradients of rounding only."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, dropout, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def loss(self, i: int) -> torch.Tensor:
        """Of one microbatch."""
        first = torch.randint(0, VOCABULARY, (8, 1), generator=generator(3, i))
        tokens = (first * 5 + torch.arange(13) * 7) % VOCABULARY
        mask = nn.Transformer.generate_square_subsequent_mask(12, dtype=self.head.weight.dtype)
        hidden = self.layer(self.embedding(tokens[:, :-1]), src_mask=mask)
        logits = self.head(hidden).float().flatten(0, 1)
        return functional.cross_entropy(logits, tokens[:, 1:].flatten())


class Convolution(nn.Module):
    """Images with batch norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = nn.Linear(8 * 16, 4)

    def loss(self, i: int) -> torch.Tensor:
        """Of one microbatch."""
        values, labels = blobs(i, size=8, dims=64)
        values = values.reshape(-1, 1, 8, 8).to(self.head.weight.dtype)
        return functional.cross_entropy(self.head(self.body(values)).float(), labels)


MODELS: dict[str, Any] = {
    "perceptron": Perceptron,
    "language": Language,
    "convolution": Convolution,
}
