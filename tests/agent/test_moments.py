"""The moments probe against real optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.agent.rig import Rig
from trainvitals.facts import MOMENT_SKETCH_SIZE
from trainvitals.probes.moments import TENSORS_A_LOOK


def _train(rig: Rig, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        rig.round(optimizer)


def test_norms_are_those_of_adams_moments() -> None:
    """Both moments of a small parameter, in full, and their width."""
    model = nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rig = Rig(model)
    _train(rig, model, optimizer, steps=4)
    row, state = rig.row("moments", "weight"), optimizer.state[model.weight]
    assert row["first_moment"] == pytest.approx(float(state["exp_avg"].norm()), rel=1e-5)
    assert row["second_moment"] == pytest.approx(float(state["exp_avg_sq"].norm()), rel=1e-5)
    assert row["moment_bits"] == 32


def test_momentum_is_a_first_moment() -> None:
    """SGD has no second one; without momentum there is nothing to tell."""
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rig = Rig(model)
    _train(rig, model, optimizer, steps=3)
    row = rig.row("moments", "bias")
    buffer = optimizer.state[model.bias]["momentum_buffer"]
    assert row["first_moment"] == pytest.approx(float(buffer.norm()), rel=1e-5)
    assert row["second_moment"] == 0
    plain = Rig(nn.Linear(8, 4))
    linear = nn.Linear(8, 4)
    plain = Rig(linear)
    _train(plain, linear, torch.optim.SGD(linear.parameters(), lr=0.01), steps=3)
    assert plain.table("moments") == []


def test_low_precision_is_told() -> None:
    """Moments that somebody has cast."""
    model = nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    rig = Rig(model)
    _train(rig, model, optimizer, steps=1)
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg_sq"].bfloat16()
    _train(rig, model, optimizer, steps=2)
    assert rig.row("moments", "weight")["moment_bits"] == 16


def test_many_parameters_take_turns() -> None:
    """All after the first step, then a few at each look, until everyone had a turn."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(40)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rig = Rig(model)
    _train(rig, model, optimizer, steps=1)
    assert len(rig.table("moments")[0]["tensor"]) == 80
    _train(rig, model, optimizer, steps=12)
    later = rig.table("moments")[1:]
    assert all(len(part["tensor"]) == TENSORS_A_LOOK for part in later)
    assert len({index for part in later for index in part["tensor"].tolist()}) == 80


def test_a_sketch_tells_moments_apart() -> None:
    """Signed sums of the second moment: the same for the same numbers, whatever the parameter is called."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    rig = Rig(model)
    _train(rig, model, optimizer, steps=3)
    states = [optimizer.state[each] for each in model.parameters() if each.ndim == 2]
    states[1]["exp_avg_sq"] = states[0]["exp_avg_sq"].clone()
    before = {fqn: _sketch(rig, fqn) for fqn in ("0.weight", "1.weight")}
    optimizer.zero_grad()
    rig.round(optimizer)
    after = {fqn: _sketch(rig, fqn) for fqn in ("0.weight", "1.weight")}
    assert after["0.weight"] == pytest.approx(after["1.weight"])
    assert before["1.weight"] != pytest.approx(after["1.weight"])


def _sketch(rig: Rig, fqn: str) -> list[float]:
    row = rig.row("moments", fqn)
    return [row[f"moment_sketch_{k}"] for k in range(MOMENT_SKETCH_SIZE)]
