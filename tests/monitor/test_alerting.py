"""
Rules and configurations for Prometheus and Alertmanager: their own tools read them, every alert fires and stays quiet.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitor.prometheus import tool
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.generate.alerting.about_monitor import MONITOR_ALERTS
from trainvitals_monitor.generate.alerting.about_runs import RUN_ALERTS
from trainvitals_monitor.generate.alerting.alert_rule import DOCS
from trainvitals_monitor.generate.alerting.recording import RECORDINGS, THRESHOLDS
from trainvitals_monitor.generate.alerting.rule_files import RULE_FILES, all_alerts
from trainvitals_monitor.metrics import METRICS
from trainvitals_monitor.metrics.scrape import LINGER_S

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "dashboards" / "prometheus"
ALERTMANAGER = ROOT / "dashboards" / "alertmanager"
ALERTS = all_alerts()


def run(name: str, *arguments: str, fails: bool = False) -> str:
    """What the tool says."""
    done = subprocess.run(
        [tool(name), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_rules_and_configuration() -> None:
    """`promtool check`; credentials of the compose file are there only in the container."""
    run("promtool", "check", "rules", *RULE_FILES)
    run("promtool", "check", "config", "prometheus.yml")
    run("promtool", "check", "config", "--syntax-only", "compose.yml")


def test_every_alert_fires_and_stays_quiet() -> None:
    """`promtool test rules`: firing, not before its `for`, and not when all is well."""
    assert "SUCCESS" in run("promtool", "test", "rules", "tests.yml")


@pytest.mark.parametrize(
    ("file", "old", "new", "test"),
    [
        ("findings.yml", '"5m"', '"1m"', "findings fire"),
        ("thresholds.yml", "vector(300)", "vector(30)", "TrainvitalsRunVanished fires"),
    ],
)
def test_the_tests_of_rules_find_faults(
    tmp_path: Path, file: str, old: str, new: str, test: str
) -> None:
    """A rule that fires too early, always or the wrong way round does not pass its own test."""
    for source in RULE_FILES:
        copy = tmp_path / source
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((PROMETHEUS / source).read_text())
    broken = tmp_path / "rules" / file
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new))
    tests = yaml.safe_load((PROMETHEUS / "tests.yml").read_text())
    tests["tests"] = [one for one in tests["tests"] if one["name"] == test]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    assert "FAILED" in run("promtool", "test", "rules", str(tmp_path / "tests.yml"), fails=True)


def test_every_detector_has_an_alert_and_every_alert_all_it_needs() -> None:
    """Labels and annotations that people and routes rely on."""
    assert len({one.name for one in ALERTS}) == len(ALERTS)
    assert len(ALERTS) == len(DETECTORS) + len(RUN_ALERTS) + len(MONITOR_ALERTS)
    for one in ALERTS:
        labels = {**one.labels, **one.added_labels()}
        assert {"severity", "detector"} <= set(labels), one.name
        said = one.annotations()
        assert said.keys() >= {"summary", "description", "action", "runbook_url"}
        assert all(said[name].strip().endswith((".", "}}")) for name in ("description", "action"))
        assert ("run" in labels) == bool({"run_url", "finding_url"} & set(said)), one.name
        assert one.hold_minutes * 60 < LINGER_S or one.severity == "info", one.name
        page, _, anchor = one.runbook.removeprefix(DOCS).partition("#")
        headings = re.findall(r"^##+ (.+)$", (ROOT / "docs" / page).read_text(), re.M)
        assert anchor in {heading.lower() for heading in headings}, one.runbook


def test_rules_ask_only_for_what_there_is() -> None:
    """Every metric of an expression is one of METRICS, or recorded."""
    known = {spec.exposed for spec in METRICS} | {"up"}
    recorded = {one.record for one in RECORDINGS} | {one.record for one in THRESHOLDS}
    for expr in (*(one.expr for one in ALERTS), *(one.expr for one in RECORDINGS)):
        asked = set(re.findall(r"(?:\w+:)?trainvitals[\w:]*", re.sub(r'"[^"]*"', "", expr)))
        assert asked <= known | recorded, expr
    assert all(re.fullmatch(r"\w+:\w+:\w+", one) for one in recorded)


@pytest.mark.parametrize("file", ["alertmanager.yml", "alertmanager.slack.yml"])
def test_amtool_accepts_the_configuration(file: str) -> None:
    """`amtool check-config`."""
    assert "SUCCESS" in run("amtool", "check-config", str(ALERTMANAGER / file))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "TrainvitalsSlotReplaced", "severity": "critical", "run": "a"}, "page"),
        ({"alertname": "TrainvitalsSlotReplaced", "severity": "warning", "run": "a"}, "queue"),
        ({"alertname": "TrainvitalsAgentCostly", "severity": "info", "run": "a"}, "nobody"),
        ({"alertname": "TrainvitalsMonitorDown", "severity": "critical"}, "page"),
        ({"alertname": "TrainvitalsWatchdog", "severity": "none"}, "watchdog"),
    ],
)
def test_routes(labels: dict[str, str], receiver: str) -> None:
    """Critical pages, warning goes to a queue, info to nobody."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    for file in ("alertmanager.yml", "alertmanager.slack.yml"):
        config = f"--config.file={ALERTMANAGER / file}"
        run("amtool", "config", "routes", "test", config, f"--verify.receivers={receiver}", *pairs)
