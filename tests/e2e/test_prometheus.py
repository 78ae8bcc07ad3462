"""
From real training to whoever is woken: agent, monitor, Prometheus, Alertmanager and a webhook, none of them a mock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.alerting import Stack, wait_until, whole_street
from tests.monitor.grafana import DASHBOARDS, filled, queries
from trainvitals_monitor.demo import FAULT_BY_NAME
from trainvitals_monitor.demo.trainer import Trainer

pytestmark = pytest.mark.slow

STEPS = 24
WAKES = {
    "expert-bias": ("slot-replaced", "layers.0.moe.expert_bias"),
    "router-dtype": ("contract-broken", "layers.0.moe.expert_bias"),
    "lora-explosion": ("lora-a-growth", "lora_a.weight"),
    "compile-resume": ("checkpoint-keys-changed", "layers.0.attention.wq.weight"),
}
"""What each fault's alert must name: detector and tensor."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of everything, for all runs."""
    with whole_street(tmp_path_factory.mktemp("street")) as running:
        yield running


def train(stack: Stack, name: str, folder: Path) -> str:
    """Train the demo with a fault, all its attempts; the run's name."""
    fault, run = FAULT_BY_NAME[name], f"demo-{name}"
    for _ in range(fault.attempts):
        url = stack.monitor.client.url
        with Trainer(fault, run=run, monitor=url, folder=folder, steps=STEPS) as trainer:
            for _ in trainer.lines():
                pass
    assert (trainer.status == 0) != fault.last_attempt_fails, trainer.said
    wait_until(
        lambda: stack.prometheus.query(f'trainvitals_run_step{{run="{run}"}} >= {STEPS}'),
        lambda: stack.prometheus.query("trainvitals_run_step"),
    )
    return run


def test_every_fault_is_expected_to_wake() -> None:
    """The list above has them all."""
    assert set(WAKES) == set(FAULT_BY_NAME) - {"none"}


@pytest.mark.parametrize("name", WAKES)
def test_a_fault_wakes_somebody(stack: Stack, tmp_path: Path, name: str) -> None:
    """The webhook gets an alert that names run, detector, tensor, what to do and where to look; once."""
    run = train(stack, name, tmp_path)
    detector, tensor = WAKES[name]

    def arrived() -> list[dict[str, Any]]:
        kind = {"detector": detector, "severity": "critical"}
        return [one for one in stack.alerts(run) if kind.items() <= one["labels"].items()]

    wait_until(arrived, lambda: stack.prometheus.ask("alerts"))
    alert = arrived()[0]
    assert alert["receiver"] == "page"
    assert tensor in alert["annotations"]["tensors"]
    assert f"/runs/{run}#{detector}-" in alert["annotations"]["finding_url"]
    assert detector in alert["annotations"]["runbook_url"]
    assert run in alert["annotations"]["summary"] + alert["annotations"]["description"]


def test_a_healthy_run_wakes_nobody(stack: Stack, tmp_path: Path) -> None:
    """No alert above info is even pending of it: that the demo looks at everything at every step is told nobody."""
    run = train(stack, "none", tmp_path)
    evaluated = f'min_over_time(trainvitals_run_step{{run="{run}"}}[5s]) >= {STEPS}'
    wait_until(lambda: stack.prometheus.query(evaluated), lambda: evaluated)
    pending = [one["labels"] for one in stack.prometheus.ask("alerts")["alerts"]]
    about = [one for one in pending if one.get("run") == run and one["severity"] != "info"]
    assert (about, stack.alerts(run)) == ([], [])


SHOWN = {
    "overview": ".+",
    "run": "demo-expert-bias",
    "moe": "demo-expert-bias",
    "lora": "demo-lora-explosion",
    "checkpoints": "demo-compile-resume",
    "monitor": ".+",
}
"""The real run that each dashboard is asked for: one that has what it is about, and findings."""


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_a_dashboard_shows_a_real_training(stack: Stack, name: str) -> None:
    """Panels and marks, with nothing left out, on the runs that the tests above have trained."""
    empty = [
        (where, expr)
        for where, asked in queries(DASHBOARDS[name])
        if not stack.prometheus.query_range(
            expr := filled(asked, {"job": "trainvitals", "run": SHOWN[name]}), 600
        )
    ]
    assert empty == []
