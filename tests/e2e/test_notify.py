"""
`serve --notify` with real training: a webhook is told of a fault in it, and of nothing else.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.monitor.serving import until
from tests.monitor.webhook import Webhook
from trainvitals_monitor.child import ChildMonitor
from trainvitals_monitor.demo import FAULT_BY_NAME
from trainvitals_monitor.demo.trainer import Trainer


def train(monitor: ChildMonitor, fault: str, folder: Path) -> None:
    """The demo's trainer, for some steps."""
    url = monitor.client.url
    with Trainer(
        FAULT_BY_NAME[fault], run=f"demo-{fault}", monitor=url, folder=folder, steps=24
    ) as trainer:
        for _ in trainer.lines():
            pass
    assert trainer.status == 0, trainer.said


@pytest.mark.slow
def test_a_fault_is_told_and_a_healthy_run_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message, with run, detector, tensor and page; the address comes from the environment."""
    with Webhook().listening() as hook:
        monkeypatch.setenv("TRAINVITALS_NOTIFY", f"json://{hook.address}/")
        with ChildMonitor(tmp_path / "monitor") as monitor:
            train(monitor, "none", tmp_path)
            train(monitor, "router-dtype", tmp_path)
            until(lambda: bool(hook.got))
            time.sleep(1)
    (told,) = hook.got
    assert told["title"] == "critical: run demo-router-dtype: contract-broken"
    assert "layers.0.moe.expert_bias" in told["message"]
    assert "/runs/demo-router-dtype" in told["message"]
