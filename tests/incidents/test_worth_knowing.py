"""
What is only worth knowing, on a real trainer: a rate that leaps, a loss that stays up, gradients that explode.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import trainvitals
from tests.incidents.drive import findings_of
from trainvitals_monitor.findings import Finding, Severity

WARM_UP, ONSET, STEPS = 10, 80, 140


def train(folder: Path, fault: str) -> list[Finding]:
    """A small regression with a warm-up; `fault` sets in at step 80, "" for none."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP)
    )
    averages = [torch.zeros_like(parameter) for parameter in model.parameters()]
    with trainvitals.attach(
        model, optimizer, run=fault or "sound", monitor=str(folder), budget=None, quiet=True
    ) as agent:
        for step in range(STEPS):
            wrong = fault if step >= ONSET else ""
            x = torch.randn(64, 8)
            y = x[:, :1].sin() + 0.1 * torch.randn(64, 1)
            if wrong == "loss-spike":  # a part of the data that nobody normalised
                y = 20.0 * y
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if wrong == "gradient-explosion":
                _amplify(model, averages)
            if (
                step == ONSET and wrong == "learning-rate-jump"
            ):  # once more by the number of processes
                warm_up.base_lrs = [8 * rate for rate in warm_up.base_lrs]
            optimizer.step()
            warm_up.step()
            agent.log(step=step, loss=loss)
    return findings_of(folder)


@torch.no_grad()
def _amplify(model: nn.Module, averages: list[torch.Tensor]) -> None:
    """A filter that adds up what it has amplified itself, as in grokfast #9."""
    for parameter, average in zip(model.parameters(), averages, strict=True):
        assert parameter.grad is not None
        parameter.grad.add_(average, alpha=1.5)
        average.copy_(parameter.grad)


@pytest.mark.parametrize("fault", ["learning-rate-jump", "loss-spike", "gradient-explosion"])
def test_the_fault_is_told_as_worth_knowing(fault: str, tmp_path: Path) -> None:
    """At its onset, never above info."""
    (told,) = [one for one in train(tmp_path, fault) if one.detector == fault]
    assert told.severity is Severity.INFO
    assert ONSET <= told.first_step <= ONSET + 40


def test_a_sound_run_is_told_nothing(tmp_path: Path) -> None:
    """Not even that."""
    assert train(tmp_path, "") == []


@pytest.mark.parametrize("grows", [True, False])
def test_a_head_that_is_added_is_told(tmp_path: Path, grows: bool) -> None:
    """A head that joins the model, and its optimizer, while it trains: named at its first step, and nothing else is."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(8, 32), "head": nn.Linear(32, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with trainvitals.attach(
        model, optimizer, run="grows", monitor=str(tmp_path), budget=None, quiet=True
    ):
        for step in range(40):
            if grows and step == 20:
                model["second"] = nn.Linear(32, 1)
                optimizer.add_param_group({"params": model["second"].parameters()})
            x = torch.randn(64, 8)
            hidden = model["body"](x).tanh()
            outputs = [head(hidden) for name, head in model.items() if name != "body"]
            loss = (torch.stack(outputs) - x[:, :1].sin()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    told = [
        (one.detector, one.severity, one.first_step, one.subjects) for one in findings_of(tmp_path)
    ]
    added = ("tensor-added-or-lost", Severity.INFO, 21, ["second.weight", "second.bias"])
    assert told == ([added] if grows else [])
