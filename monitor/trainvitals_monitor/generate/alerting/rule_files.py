"""
dashboards/prometheus/: the rules as files, their tests for promtool, and a configuration that loads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from trainvitals_monitor.generate.alerting.about_monitor import MONITOR_ALERTS
from trainvitals_monitor.generate.alerting.about_runs import RUN_ALERTS
from trainvitals_monitor.generate.alerting.alert_rule import JOB, AlertRule
from trainvitals_monitor.generate.alerting.from_detectors import detector_alerts
from trainvitals_monitor.generate.alerting.recording import RECORDINGS, THRESHOLDS
from trainvitals_monitor.generate.alerting.yaml import document

_MADE = "Made by `trainvitals generate`; what is changed here is lost when it is run again."
_GROUPS = ("thresholds", "recording", "findings", "runs", "monitor")
RULE_FILES = tuple(f"rules/{name}.yml" for name in _GROUPS)


def all_alerts() -> list[AlertRule]:
    """Every alert there is."""
    return [*detector_alerts(), *RUN_ALERTS, *MONITOR_ALERTS]


def thresholds_file() -> str:
    """Of the alerts that compare with a number; those of detectors are set in the monitor (docs/contract.md)."""
    reasons = "\n".join(f"{one.record}: {one.why}." for one in THRESHOLDS)
    head = f"Thresholds of the alerts in runs.yml and monitor.yml. Edit them here, and keep this file.\n{reasons}"
    rules = [{"record": one.record, "expr": f"vector({one.value:g})"} for one in THRESHOLDS]
    return _rules(head, "thresholds", rules)


def recording_file() -> str:
    """Recording rules."""
    rules = [{"record": one.record, "expr": one.expr} for one in RECORDINGS]
    return _rules(_MADE, "recording", rules)


def findings_file() -> str:
    """One alert a detector."""
    return _rules(_MADE, "findings", [one.rule() for one in detector_alerts()])


def runs_file() -> str:
    """Alerts on runs."""
    return _rules(_MADE, "runs", [one.rule() for one in RUN_ALERTS])


def monitor_file() -> str:
    """Alerts on the monitor."""
    return _rules(_MADE, "monitor", [one.rule() for one in MONITOR_ALERTS])


def _rules(comment: str, group: str, rules: Iterable[dict[str, Any]]) -> str:
    return document(comment, {"groups": [{"name": f"trainvitals-{group}", "rules": list(rules)}]})


def tests_file() -> str:
    """For every alert: it fires, not before its `for`, and not when all is well."""
    tests = [*_together(detector_alerts())]
    for alert in (*RUN_ALERTS, *MONITOR_ALERTS):
        tests += _tests(alert)
    return document(
        f"{_MADE}\npromtool test rules tests.yml",
        {
            "rule_files": list(RULE_FILES),
            "evaluation_interval": "1m",
            "group_eval_order": [f"trainvitals-{name}" for name in _GROUPS],
            "tests": tests,
        },
    )


def _together(alerts: Sequence[AlertRule]) -> Iterable[dict[str, Any]]:
    """Those of detectors do not see each other's series: all fire in one test, which takes seconds and not minutes."""
    firing = {name: values for one in alerts for name, values in one.firing.items()}
    yield _test("findings fire", firing, [moment for one in alerts for moment in _firing(one)])
    for place in range(max(len(one.quiet) for one in alerts)):
        series = {name: values for one in alerts for name, values in one.quiet[place].items()}
        moments = [moment for one in alerts for moment in _quiet(one)]
        yield _test("findings stay quiet", series, moments)


def _tests(alert: AlertRule) -> Iterable[dict[str, Any]]:
    yield _test(f"{alert.name} fires", alert.firing, _firing(alert))
    for series in alert.quiet:
        yield _test(f"{alert.name} stays quiet", series, _quiet(alert))


def _firing(alert: AlertRule) -> list[dict[str, Any]]:
    """Not before its time, and at it."""
    fires_at = alert.onset + alert.hold_minutes
    expected = {
        "exp_labels": {**alert.labels, **alert.added_labels()},
        "exp_annotations": {**alert.annotations(), **alert.expanded},
    }
    early = [_moment(alert, fires_at - 1, [])] if fires_at else []
    return [*early, _moment(alert, fires_at, [expected])]


def _quiet(alert: AlertRule) -> list[dict[str, Any]]:
    fires_at = alert.onset + alert.hold_minutes
    return [_moment(alert, minute, []) for minute in sorted({fires_at, max(fires_at, 30)})]


def _moment(alert: AlertRule, minute: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": alert.name, "exp_alerts": expected}


def _test(name: str, series: Any, moments: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": one, "values": values} for one, values in series.items()]
    return {"name": name, "interval": "1m", "input_series": given, "alert_rule_test": moments}


def prometheus_file() -> str:
    """Everything on one machine."""
    return _prometheus("127.0.0.1:8420", "127.0.0.1:9093", {})


def compose_file() -> str:
    """As docker-compose.yml names its services; the read token is a secret."""
    token = {"authorization": {"credentials_file": "/run/secrets/read_token"}}
    return _prometheus("monitor:8420", "alertmanager:9093", token)


def _prometheus(monitor: str, alertmanager: str, more: dict[str, Any]) -> str:
    note = "Where the monitor wants a read token: authorization: {credentials_file: FILE}."
    return document(
        f"{_MADE}\n{note}",
        {
            "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
            "rule_files": ["rules/*.yml"],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}],
            },
            "scrape_configs": [
                {"job_name": JOB, **more, "static_configs": [{"targets": [monitor]}]},
                {"job_name": "prometheus", "static_configs": [{"targets": ["127.0.0.1:9090"]}]},
            ],
        },
    )
