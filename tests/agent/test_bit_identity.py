"""
Training is bit for bit the same with the agent as without it, however closely it looks.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainvitals

STEPS = 50


class Net(nn.Module):
    """Dropout, BatchNorm buffers, a bf16 part, an embedding, and a buffer that the trainer updates itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.norm = nn.BatchNorm1d(16)
        self.hidden = nn.Linear(16, 16, dtype=torch.bfloat16)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(16, 4)
        self.register_buffer("expert_bias", torch.zeros(4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embedding(ids))
        hidden = self.dropout(self.hidden(hidden.bfloat16()).float().relu())
        out: torch.Tensor = self.head(hidden) + self.get_buffer("expert_bias")
        return out


class Noisy(TensorDataset):
    """Draws from the worker's own generators, so that a worker that we disturbed would show."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        ids, label = super().__getitem__(index)
        shift = int(torch.randint(0, 3, ())) + random.randint(0, 2)
        return (ids + shift) % 32, label


def train(folder: Path | None, compiled: bool) -> dict[str, torch.Tensor]:
    """Everything that 50 steps leave behind: losses, state, optimizer state, and the generators' states."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    data = Noisy(torch.randint(0, 32, (STEPS * 8,)), torch.randint(0, 4, (STEPS * 8,)))
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=2)
    model = Net()
    forward: nn.Module = model
    if compiled:
        forward = cast(nn.Module, torch.compile(model, backend="aot_eager"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent = None
    if folder is not None:
        agent = trainvitals.attach(forward, optimizer, monitor=str(folder), budget=None, quiet=True)
    losses = []
    for ids, labels in loader:
        loss = nn.functional.cross_entropy(forward(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.get_buffer("expert_bias").add_(1e-3)
        losses.append(loss.detach())
        if agent is not None:
            agent.log(loss=loss)
    if agent is not None:
        assert agent.coverage()["steps"] == STEPS
        assert agent.coverage()["switched_off"] == {}
        agent.close()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, entry in enumerate(optimizer.state.values()):
        state |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    legacy_state = np.random.get_state(legacy=False)["state"]["key"]
    generators = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(legacy_state.astype(np.int64)),
        "python": torch.tensor(random.getstate()[1][:-1]),
    }
    return {**state, **generators, "losses": torch.stack(losses)}


def as_bytes(value: torch.Tensor) -> torch.Tensor:
    """The bits, so that NaNs compare too."""
    return value.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_training_is_bit_identical(compiled: bool, tmp_path: Path) -> None:
    """Losses, weights, buffers, optimizer state and generators agree to the last bit over 50 steps."""
    alone, watched = train(None, compiled), train(tmp_path, compiled)
    assert alone.keys() == watched.keys()
    different = [
        name
        for name, value in alone.items()
        if value.dtype != watched[name].dtype
        or not torch.equal(as_bytes(value), as_bytes(watched[name]))
    ]
    assert different == []
    assert list(tmp_path.rglob("*.safetensors"))
