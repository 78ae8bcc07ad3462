"""
`trainvitals demo`: each fault is found by a real monitor in a real training, and a healthy run is left alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainvitals_monitor.client import Client, MonitorError
from trainvitals_monitor.demo import FAULT_BY_NAME

FOUND = {
    "expert-bias": {"slot-replaced", "checkpoint-stale"},
    "router-dtype": {"contract-broken"},
    "lora-explosion": {"loss-at-chance", "lora-a-growth"},
    "compile-resume": {"checkpoint-keys-changed"},
    "none": set(),
}


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`trainvitals demo` with few steps, whatever it leaves behind in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "trainvitals", "demo", "--steps", "24", *options],
        env={**os.environ, "TMPDIR": str(folder), "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_every_fault_has_an_expectation() -> None:
    """What is expected below covers all faults that can be chosen."""
    assert set(FOUND) == set(FAULT_BY_NAME)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FOUND)
def test_fault_is_found(fault: str, tmp_path: Path) -> None:
    """The demo ends with the findings that its fault deserves and no other, its address, and leaves nothing behind."""
    ended = demo(tmp_path, "--fault", fault, "--linger", "0")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert set(re.findall(r"^ (?:\+ )?([a-z-]+) +\d+", ended.stdout, re.MULTILINE)) == FOUND[fault]
    assert re.search(r"Look at the run: http://127\.0\.0\.1:\d+/runs/demo-", ended.stdout)
    assert ("no findings" in ended.stdout) == (not FOUND[fault])
    assert list(tmp_path.glob("trainvitals-*")) == []


@pytest.mark.slow
def test_two_demos_at_once_share_no_port(tmp_path: Path) -> None:
    """Both look for the usual port at the same moment; both get a monitor."""
    command = [sys.executable, "-m", "trainvitals", "demo", "--steps", "24", "--fault", "none"]
    both = [
        subprocess.Popen(
            [*command, "--linger", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    outputs = [one.communicate(timeout=250)[0].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert all("no findings" in output for output in outputs)


@pytest.mark.slow
def test_monitor_stays_and_goes(tmp_path: Path) -> None:
    """Without a terminal the monitor stays behind as the process that was named, and can still be asked."""
    ended = demo(tmp_path, "--fault", "router-dtype", "--linger", "60")
    said = re.search(r"(http://127\.0\.0\.1:\d+) \(pid (\d+);", ended.stderr)
    assert said is not None, ended.stderr
    client, pid = Client(said[1]), int(said[2])
    try:
        assert [one["detector"] for one in client.findings("demo-router-dtype")] == [
            "contract-broken"
        ]
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while answers(client):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answers(client: Client) -> bool:
    """Whether the monitor is still there."""
    try:
        client.get("/healthz")
    except MonitorError:
        return False
    return True
