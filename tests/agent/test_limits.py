"""What the agent can't know it says in words: at attach, and in the coverage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

import trainvitals
from trainvitals.limits import limits_of_models, limits_of_tensors
from trainvitals.slots import SlotTable


class DeepSpeedEngine(nn.Module):
    """Named as DeepSpeed's: that is how it is known."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_model_of_ours_has_no_limits() -> None:
    """Plain modules, in one process."""
    model = nn.Linear(2, 2)
    assert limits_of_models([model]) == []
    assert limits_of_tensors(SlotTable([model])) == []


def test_plain_tensors_of_several_ranks() -> None:
    """Nobody says which part each holds."""
    limits = limits_of_tensors(SlotTable([nn.Linear(2, 2)], world_size=2))
    assert [limit.partition(" is not declared")[0] for limit in limits] == [
        "the layout of 2 of 2 tensors"
    ]


def test_an_optimizer_of_copies() -> None:
    """fp32 clones that nothing leads to from the model."""
    model = nn.Linear(2, 2)
    slots = SlotTable([model])
    copies = SGD([nn.Parameter(p.detach().clone()) for p in model.parameters()], lr=0.1)
    assert len(slots.holding(copies).foreign) == 2
    assert [limit.split(",")[0] for limit in limits_of_tensors(slots)] == [
        "SGD holds no tensor of the model"
    ]


def test_an_optimizer_of_master_weights() -> None:
    """The model leads to them, and moves when the optimizer's hooks are over."""
    model = nn.Linear(2, 2)
    slots = SlotTable([model])
    masters = [nn.Parameter(parameter.detach().clone()) for parameter in model.parameters()]
    for parameter, master in zip(model.parameters(), masters, strict=True):
        parameter.main_param = master  # type: ignore[attr-defined]
    optimizer = SGD(masters, lr=0.1)
    assert slots.holding(optimizer).masters
    assert [limit.split(",")[0] for limit in limits_of_tensors(slots)] == [
        "SGD holds master weights"
    ]


def test_deepspeed_is_declined_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line at attach says what to call, and that is counted; no fault is made of what is not known."""
    model = nn.Linear(2, 2)
    engine = DeepSpeedEngine(model)
    agent = trainvitals.attach(engine, monitor=str(tmp_path), budget=None)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(0.1)
        agent.step()
    agent.close()
    assert any("agent.step() after each engine.step()" in line for line in caplog.messages)
    coverage = agent.coverage()
    assert coverage["steps"] == 3
    assert coverage["failures"] == {}
    assert "DeepSpeed" in coverage["limits"][0]
