"""
The committed configuration of Prometheus and Alertmanager, run for real on loopback for a test.

What is changed of it, and nothing else: addresses (targets, Alertmanager, receivers' URLs; credentials are left out), and
time: scrapes and evaluations every second, groups sent at once, `for` of every alert no longer than FOR, and where a test
asks for it the threshold of a run's silence. Other thresholds, expressions, labels, annotations, routes and inhibitions are
as an operator gets them.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitor.prometheus import tool
from tests.monitor.prometheus_server import PrometheusServer, running_prometheus
from tests.monitor.webhook import Webhook
from trainvitals_monitor.child import ChildMonitor

CONFIGURATION = Path(__file__).parents[2] / "dashboards"
FOR = "2s"
_JOB = "trainvitals"


@dataclass(frozen=True)
class Stack:
    """A monitor, a Prometheus that scrapes it, and what Alertmanager sent to whom."""

    monitor: ChildMonitor
    prometheus: PrometheusServer
    webhook: Webhook

    def alerts(self, run: str | None = None) -> list[dict[str, Any]]:
        """Every alert that arrived firing, with its receiver; those of one run if it is given."""
        arrived = [
            {**alert, "receiver": post["receiver"]}
            for post in list(self.webhook.got)
            for alert in post["alerts"]
            if alert["status"] == "firing"
        ]
        return [one for one in arrived if run is None or one["labels"].get("run") == run]


@contextmanager
def whole_street(folder: Path) -> Iterator[Stack]:
    """Everything from the monitor to the webhook, on free ports; ended afterwards."""
    with ChildMonitor(folder / "monitor") as monitor, woken(monitor.client.url, folder) as rest:
        yield Stack(monitor, rest.prometheus, rest.webhook)


@dataclass(frozen=True)
class Woken:
    """Prometheus, the address of an Alertmanager, and what that sent to whom."""

    prometheus: PrometheusServer
    alertmanager: str
    webhook: Webhook

    def arrived(self, **labels: str) -> list[dict[str, Any]]:
        """Every alert that arrived, as often as it did, with its receiver, of those with these labels."""
        return [
            {**alert, "receiver": post["receiver"]}
            for post in list(self.webhook.got)
            for alert in post["alerts"]
            if labels.items() <= alert["labels"].items()
        ]


@contextmanager
def woken(monitor: str, folder: Path, silence_s: int | None = None) -> Iterator[Woken]:
    """All that comes after a monitor; `silence_s`: after which silence a run has vanished."""
    with ExitStack() as running:
        webhook = running.enter_context(Webhook().listening())
        told = _for_alertmanager(webhook.address)
        alertmanager = running.enter_context(running_alertmanager(told, folder))
        config = _for_prometheus(monitor, alertmanager, folder, silence_s)
        prometheus = running.enter_context(running_prometheus(config, folder))
        yield Woken(prometheus, alertmanager, webhook)


@contextmanager
def running_alertmanager(config: dict[str, Any], folder: Path) -> Iterator[str]:
    """Alertmanager with this configuration; its address."""
    file = folder / "alertmanager.yml"
    file.write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "alertmanager.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                tool("prometheus-alertmanager"),
                f"--config.file={file}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(address), log.read_text)
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(20)


def wait_until(done: Callable[[], Any], what: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait for what other processes are about to do; fail with what there is instead."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def _for_prometheus(
    monitor: str, alertmanager: str, folder: Path, silence_s: int | None
) -> dict[str, Any]:
    source = CONFIGURATION / "prometheus"
    config: dict[str, Any] = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] |= {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    (job,) = (one for one in config["scrape_configs"] if one["job_name"] == _JOB)
    for key in ("authorization", "basic_auth", "scrape_interval", "scrape_timeout"):
        job.pop(key, None)
    job["static_configs"] = [{"targets": [monitor.removeprefix("http://")]}]
    config["scrape_configs"] = [job]
    (sender,) = config["alerting"]["alertmanagers"]
    sender["static_configs"] = [{"targets": [alertmanager]}]
    config["rule_files"] = [
        str(_sooner(file, folder, silence_s))
        for name in config["rule_files"]
        for file in source.glob(name)
    ]
    assert config["rule_files"]
    return config


def _sooner(file: Path, folder: Path, silence_s: int | None) -> Path:
    """A copy of the rules whose alerts wait FOR, if at all."""
    rules = yaml.safe_load(file.read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if not re.fullmatch(r"0\w*", str(rule.get("for", "0s"))):
                rule["for"] = FOR
            if silence_s and rule.get("record") == "trainvitals:run_silence_seconds:threshold":
                rule["expr"] = f"vector({silence_s})"
    copy = folder / file.name
    copy.write_text(json.dumps(rules))
    return copy


@contextmanager
def slack(folder: Path) -> Iterator[tuple[str, Webhook]]:
    """Alertmanager with the committed configuration for Slack, its address, and what stands in Slack's place."""
    file = CONFIGURATION / "alertmanager" / "alertmanager.slack.yml"
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    _at_once(config["route"])
    with Webhook().listening() as webhook:
        for receiver in config["receivers"]:
            for one in receiver.get("slack_configs", ()):
                del one["api_url_file"]
                one["api_url"] = f"http://{webhook.address}/slack"
        with running_alertmanager(config, folder) as address:
            yield address, webhook


def _for_alertmanager(webhook: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(
        (CONFIGURATION / "alertmanager" / "alertmanager.yml").read_text()
    )
    _at_once(config["route"])
    config["receivers"] = [
        {"name": one["name"], "webhook_configs": [{"url": f"http://{webhook}/{one['name']}"}]}
        if len(one) > 1
        else one
        for one in config["receivers"]
    ]
    return config


def _at_once(route: dict[str, Any]) -> None:
    route |= {"group_wait": "1s", "group_interval": "2s"}
    for below in route.get("routes", ()):
        _at_once(below)
