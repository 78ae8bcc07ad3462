"""
The small model of the hook matrix, and what most of its trainers do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from tests.hooks.running import Trainer

WIDTH, CLASSES, BATCH = 16, 4, 8


class Block(nn.Module):
    """Pre-norm, with dropout, and a buffer that the forward pass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, 2 * WIDTH)
        self.outer = nn.Linear(2 * WIDTH, WIDTH)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.get_buffer("calls").add_(1)
        inner = functional.dropout(self.inner(self.norm(hidden)).relu(), 0.1, self.training)
        out: torch.Tensor = hidden + self.outer(inner)
        return out


class Net(nn.Module):
    """An embedding, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden = block(hidden)
        out: torch.Tensor = self.head(hidden)
        return out


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """From the generator, which is seeded for each iteration."""
    return torch.randint(0, 32, (BATCH,)), torch.randint(0, CLASSES, (BATCH,))


def loss_of(model: Callable[..., Any]) -> torch.Tensor:
    """Of a new batch."""
    ids, labels = batch()
    loss: torch.Tensor = functional.cross_entropy(model(ids), labels)
    return loss


def usual(
    model: nn.Module,
    optimizer: Optimizer,
    step: Callable[[], Any] | None = None,
    save: Callable[[Path], None] | None = None,
) -> Trainer:
    """zero_grad, backward, step."""

    def train(_i: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        (step or optimizer.step)()
        return loss

    return Trainer(model, [optimizer], train, save)


def adamw(model: nn.Module, **given: Any) -> AdamW:
    """The optimizer of most rows."""
    return AdamW(model.parameters(), lr=1e-2, **given)


def compiled(model: nn.Module, **given: Any) -> nn.Module:
    """By aot_eager, the whole graph."""
    options = {"backend": "aot_eager", "fullgraph": True, **given}
    return cast(nn.Module, torch.compile(model, **options))
