"""
dashboards/alertmanager/: who is woken. Critical pages, warning goes to a queue, info to nobody.
"""

from __future__ import annotations

from typing import Any

from trainvitals_monitor.generate.alerting.yaml import document

_MADE = "Made by `trainvitals generate`; what is changed here is lost when it is run again."
_OURS = 'alertname=~"Trainvitals.+"'
_INHIBITS: list[dict[str, Any]] = [
    # What warns of a run that is known to be broken is mostly what follows from that.
    {
        "source_matchers": [_OURS, 'severity="critical"', 'run!=""'],
        "target_matchers": [_OURS, 'severity="warning"'],
        "equal": ["job", "run"],
    },
    # A monitor that is down says nothing of its runs; that it is not ready, or behind, is no news then.
    {
        "source_matchers": ['alertname="TrainvitalsMonitorDown"'],
        "target_matchers": [_OURS, 'alertname!="TrainvitalsMonitorDown"', 'severity!="none"'],
        "equal": ["job"],
    },
    {
        "source_matchers": ['alertname="TrainvitalsMonitorNotReady"'],
        "target_matchers": ['alertname=~"Trainvitals(RunVanished|RanksMissing|RankBehind|MonitorBehind)"'],
        "equal": ["job"],
    },
]  # fmt: skip
_ROUTE: dict[str, Any] = {
    "receiver": "queue",
    "group_by": ["alertname", "run"],
    "group_wait": "30s",
    "group_interval": "5m",
    "repeat_interval": "24h",
    "routes": [
        {
            "matchers": ['alertname="TrainvitalsWatchdog"'],
            "receiver": "watchdog",
            "group_wait": "0s",
            "group_interval": "1m",
            "repeat_interval": "5m",
        },
        {"matchers": ['severity="critical"'], "receiver": "page", "repeat_interval": "4h"},
        {"matchers": ['severity="warning"'], "receiver": "queue"},
        {"matchers": ['severity=~"info|none"'], "receiver": "nobody"},
    ],
}
_TITLE = "{{ .CommonLabels.alertname }} {{ .CommonLabels.run }}"
_TEXT = (
    "{{ range .Alerts }}*{{ .Annotations.summary }}*\n{{ .Annotations.description }}\n"
    "{{ with .Annotations.tensors }}Tensors: {{ . }}\n{{ end }}What to do: {{ .Annotations.action }}\n"
    "{{ with .Annotations.last_clean_save }}Last clean save: {{ . }}\n{{ end }}"
    "{{ .Annotations.finding_url }}{{ .Annotations.run_url }} {{ .Annotations.runbook_url }}\n{{ end }}"
)


def alertmanager_file() -> str:
    """Webhooks: one address for each receiver."""
    note = "Put the addresses of your own in place of 127.0.0.1:9099. alertmanager.slack.yml is the same for Slack."
    return _file(note, {name: {"webhook_configs": [_webhook(name)]} for name in ("page", "queue")})


def slack_file() -> str:
    """The address of the Slack webhook is a secret, in a file."""
    note = "The file `slack_url` beside this one holds the address of an incoming webhook of Slack."
    return _file(
        note,
        {
            "page": {"slack_configs": [_slack("#training-pages")]},
            "queue": {"slack_configs": [_slack("#training-queue")]},
        },
    )


def _webhook(name: str) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:9099/{name}", "send_resolved": True}


def _slack(channel: str) -> dict[str, Any]:
    return {
        "api_url_file": "slack_url",
        "channel": channel,
        "send_resolved": True,
        "title": _TITLE,
        "text": _TEXT,
    }


def _file(note: str, receivers: dict[str, dict[str, Any]]) -> str:
    watchdog = {"webhook_configs": [{**_webhook("watchdog"), "send_resolved": False}]}
    named = {**receivers, "watchdog": watchdog, "nobody": {}}
    return document(
        f"{_MADE}\n{note}\nThe receiver watchdog is for a dead man's switch: it hears something every five minutes.",
        {
            "route": _ROUTE,
            "inhibit_rules": _INHIBITS,
            "receivers": [{"name": name, **what} for name, what in named.items()],
        },
    )
