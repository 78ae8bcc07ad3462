"""
Files that are made from the catalogues, so that no fact about the product is written twice.

    python -m trainvitals_monitor.generate           write them below the working directory
    python -m trainvitals_monitor.generate --check   exit status 1, with a list, if one is not up to date

A product is a function that returns a file's text; PRODUCTS is the list. Whoever edits a generated file by hand loses it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainvitals_monitor.generate.alerting import alertmanager, rule_files
from trainvitals_monitor.generate.alerting.alerts_page import alerts_page
from trainvitals_monitor.generate.commands import commands_page
from trainvitals_monitor.generate.dashboards.files import DASHBOARD_FILES
from trainvitals_monitor.generate.dashboards_page import dashboards_page
from trainvitals_monitor.generate.detectors import detectors_page
from trainvitals_monitor.generate.facts import facts_page
from trainvitals_monitor.generate.metrics import metrics_page
from trainvitals_monitor.generate.settings import settings_page

Products = tuple[tuple[str, Callable[[], str]], ...]

PRODUCTS: Products = (
    *DASHBOARD_FILES,
    ("docs/dashboards.md", dashboards_page),
    ("docs/detectors.md", detectors_page),
    ("docs/settings.md", settings_page),
    ("docs/facts.md", facts_page),
    ("docs/metrics.md", metrics_page),
    ("docs/commands.md", commands_page),
    ("docs/alerts.md", alerts_page),
    ("dashboards/prometheus/prometheus.yml", rule_files.prometheus_file),
    ("dashboards/prometheus/compose.yml", rule_files.compose_file),
    ("dashboards/prometheus/rules/thresholds.yml", rule_files.thresholds_file),
    ("dashboards/prometheus/rules/recording.yml", rule_files.recording_file),
    ("dashboards/prometheus/rules/findings.yml", rule_files.findings_file),
    ("dashboards/prometheus/rules/runs.yml", rule_files.runs_file),
    ("dashboards/prometheus/rules/monitor.yml", rule_files.monitor_file),
    ("dashboards/prometheus/tests.yml", rule_files.tests_file),
    ("dashboards/alertmanager/alertmanager.yml", alertmanager.alertmanager_file),
    ("dashboards/alertmanager/alertmanager.slack.yml", alertmanager.slack_file),
)
DEPLOYED: Products = tuple(one for one in PRODUCTS if one[0].startswith("dashboards/"))
"""What `trainvitals generate` writes for those who run Prometheus and Grafana."""


def outdated(root: Path, products: Products = PRODUCTS) -> list[str]:
    """Paths below `root` that are missing or not what the catalogues would make."""
    return [path for path, make in products if _read(root / path) != make()]


def write(root: Path, products: Products = PRODUCTS) -> list[str]:
    """Write every product that is not up to date; returns their paths."""
    changed = outdated(root, products)
    for path, make in products:
        if path in changed:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(make(), encoding="utf-8")
    return changed


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
