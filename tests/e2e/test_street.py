"""
The whole street at once: a trainer under the agent, a real monitor, and the answer back in the trainer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import trainvitals
from trainvitals_monitor.child import ChildMonitor


class Router(nn.Module):
    """Two layers and an expert bias that the trainer moves by its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("expert_bias", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.inner(x).relu() + self.get_buffer("expert_bias"))
        return out


def train(steps: int, *, replace: bool, **attach: Any) -> trainvitals.Agent:
    """Train under the agent; with the fault of torchtitan #1222 if `replace`. The agent is left open."""
    torch.manual_seed(0)
    model = Router()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    cached = model.state_dict()
    agent = trainvitals.attach(model, optimizer, budget=None, interval_s=0.05, **attach)
    try:
        _steps(model, optimizer, agent, steps, replace)
        assert cached
    except trainvitals.FindingRaised:
        agent.close()
        raise
    return agent


def _steps(
    model: Router,
    optimizer: torch.optim.Optimizer,
    agent: trainvitals.Agent,
    steps: int,
    replace: bool,
) -> None:
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 4, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if replace:
            model.expert_bias = model.get_buffer("expert_bias") + 1e-3
        else:
            model.get_buffer("expert_bias").add_(1e-3)
        agent.log(step=step, loss=loss)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real monitor."""
    child = ChildMonitor(tmp_path_factory.mktemp("monitor")).start()
    yield child.client.url
    child.stop()


def test_findings_come_back_to_the_trainer(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the monitor finds is in agent.findings and in the trainer's log, once, while training goes on."""
    agent = train(60, replace=True, run="told", monitor=url)
    assert agent.flush()
    found = {finding["detector"]: finding for finding in agent.findings}
    assert found["slot-replaced"]["subjects"] == ["expert_bias"]
    assert found["slot-replaced"]["severity"] == "critical"
    agent.close()
    lines = [line for line in caplog.messages if "slot-replaced" in line]
    assert len(lines) == 1
    assert "/runs/told" in lines[0]


def test_a_callable_gets_each_finding_once(url: str) -> None:
    """on_finding= is called with each new finding on the trainer's thread."""
    got: list[dict[str, Any]] = []
    train(60, replace=True, run="called", monitor=url, on_finding=got.append, quiet=True).close()
    assert [finding["detector"] for finding in got] == ["slot-replaced"]


def test_a_finding_can_end_the_training(url: str) -> None:
    """on_finding="raise" ends the training at a step, with the finding in the exception."""
    with pytest.raises(trainvitals.FindingRaised, match="slot-replaced") as raised:
        train(400, replace=True, run="raised", monitor=url, on_finding="raise", quiet=True)
    assert raised.value.finding["run"] == "raised"


def test_a_sound_run_is_told_nothing(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without a fault nothing is found, and only the two lines of the agent's own are said."""
    agent = train(60, replace=False, run="sound", monitor=url)
    agent.close()
    assert agent.findings == []
    assert len(caplog.messages) == 2


def test_what_the_monitor_keeps(url: str) -> None:
    """Runs, tensors and series can be asked for over HTTP, and the metrics name the finding."""
    import httpx

    train(40, replace=True, run="kept", monitor=url, quiet=True).close()
    with httpx.Client(base_url=url) as client:
        names = [run["run"] for run in client.get("/api/v1/runs").json()["runs"]]
        assert "kept" in names
        series = client.get(
            "/api/v1/runs/kept/series", params={"tensor": "inner.weight", "stat": "norm"}
        ).json()
        assert len(series["steps"]) == 40
        metrics = client.get("/metrics").text
    assert "trainvitals_finding_active{" in metrics
    assert 'run="kept"' in metrics
