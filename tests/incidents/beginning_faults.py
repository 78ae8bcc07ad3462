"""
Small trainers whose parameters begin wrong, are decayed wrongly or do not follow, each with the twin that is right.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs, perceptron, update
from tests.incidents.state_faults import StateFaults

FAULTS = StateFaults()


@FAULTS.of("norm-collapse", steps=160, onset=0, subject="input_layernorm.weight")
def gains_named_otherwise(healthy: bool) -> Run:
    """The list of what is not decayed says `LayerNorm`, the model `input_layernorm`."""
    model = nn.ModuleDict(
        {
            "inside": nn.Linear(16, 32),
            "input_layernorm": nn.LayerNorm(32),
            "middle": nn.Linear(32, 32),
            "output_layernorm": nn.LayerNorm(32),
            "outside": nn.Linear(32, 4),
        }
    )
    exempt = ("bias", "layernorm" if healthy else "LayerNorm")
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named if not any(part in name for part in exempt)]},
        {
            "params": [p for name, p in named if any(part in name for part in exempt)],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=3.0)

    def step(i: int) -> float:
        values, labels = blobs(i)
        hidden = functional.gelu(model["input_layernorm"](model["inside"](values)))
        hidden = functional.gelu(model["output_layernorm"](model["middle"](hidden)))
        return update(optimizer, functional.cross_entropy(model["outside"](hidden), labels))

    return Run(model, optimizer, step)


def _trained(model: nn.Module, i: int, optimizer: torch.optim.Optimizer) -> float:
    values, labels = blobs(i)
    return update(optimizer, functional.cross_entropy(model(values), labels))


@FAULTS.of("units-alike", steps=30, onset=0, subject="2.weight")
def constant_weights(healthy: bool) -> Run:
    """Every weight is 0.1: each hidden layer is one unit, many times over."""
    model = perceptron(16, 32, 32, 4)
    if not healthy:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.constant_(layer.weight, 0.1)
                nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(model, optimizer, lambda i: _trained(model, i, optimizer))


class _Branch(nn.Module):
    """A residual branch whose last layer, or each of whose layers, begins at zero."""

    def __init__(self, healthy: bool) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(32, 64), nn.Linear(64, 32)
        for layer in (self.outside,) if healthy else (self.inside, self.outside):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.outside(functional.gelu(self.inside(x)))
        return x + branch


@FAULTS.of("units-alike", steps=30, onset=0, subject="1.outside.weight")
def zeros_behind_zeros(healthy: bool) -> Run:
    """A branch of two layers of zeros; its twin zeroes the last one."""
    model = nn.Sequential(nn.Linear(16, 32), _Branch(healthy), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(model, optimizer, lambda i: _trained(model, i, optimizer))


@FAULTS.of("wrong-from-initialisation", steps=20, onset=0, subject="4.weight")
def one_layer_far_too_wide(healthy: bool) -> Run:
    """One of the layers is drawn with a gain that was meant for its input."""
    model = perceptron(16, 32, 32, 32, 32, 4)
    for number in (2, 4, 6):
        gain = 60.0 if number == 4 and not healthy else 1.0
        nn.init.normal_(model.get_parameter(f"{number}.weight"), std=gain * 32**-0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(model, optimizer, lambda i: _trained(model, i, optimizer))


@FAULTS.of("wrong-from-initialisation", steps=20, onset=0, subject="0.weight")
def memory_as_it_was(healthy: bool) -> Run:
    """A weight whose bits are those of small integers and pointers; a fixed pattern stands for the memory."""
    model = perceptron(16, 32, 4)
    if not healthy:
        bits = torch.zeros(32, 16, dtype=torch.int32)
        bits[:, 1::4] = torch.arange(1, 129).reshape(32, 4).int()
        bits[::2, 2] = 0x7F42
        with torch.no_grad():
            model.get_parameter("0.weight").copy_(bits.view(torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Run(model, optimizer, lambda i: _trained(model, i, optimizer))


class _Copied(nn.Module):
    """A network and a copy of it, in a dtype of its own, that nobody trains."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.online = perceptron(16, 32, 4)
        self.slow = copy.deepcopy(self.online).requires_grad_(False).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.online(x)
        return output


@FAULTS.of("average-stuck", steps=60, onset=11, subject="slow.0.weight")
def loaded_from_itself(healthy: bool) -> Run:
    """A target that is to be loaded from the online network every twelve steps."""
    model = _Copied()
    optimizer = torch.optim.AdamW(model.online.parameters(), lr=3e-3)

    def step(i: int) -> float:
        loss = _trained(model, i, optimizer)
        if i % 12 == 11:
            model.slow.load_state_dict((model.online if healthy else model.slow).state_dict())
        return loss

    return Run(model, optimizer, step)


@FAULTS.of("average-stuck", steps=60, onset=0, subject="slow.0.weight")
def averaged_in_bfloat16(healthy: bool) -> Run:
    """A decay of 0.995, in eight bits of mantissa."""
    model = _Copied(torch.float32 if healthy else torch.bfloat16)
    optimizer = torch.optim.AdamW(model.online.parameters(), lr=1e-3)

    def step(i: int) -> float:
        loss = _trained(model, i, optimizer)
        with torch.no_grad():
            for mine, its in zip(model.slow.parameters(), model.online.parameters(), strict=True):
                mine.lerp_(its.to(mine.dtype), 0.005)
        return loss

    return Run(model, optimizer, step)
