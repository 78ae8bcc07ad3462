"""
docs/alerts.md: what each alert means, and what to do.
"""

from __future__ import annotations

from trainvitals_monitor.generate.alerting.about_monitor import MONITOR_ALERTS
from trainvitals_monitor.generate.alerting.about_runs import RUN_ALERTS
from trainvitals_monitor.generate.alerting.from_detectors import detector_alerts
from trainvitals_monitor.generate.alerting.recording import RECORDINGS, THRESHOLDS
from trainvitals_monitor.generate.markdown import GENERATED, table

_INTRODUCTION = """
# Alerts

`dashboards/prometheus/` has the rules and a configuration that loads them, `dashboards/alertmanager/` who is woken:
**critical** pages, **warning** goes to a queue, **info** to nobody. Alerts are grouped by name and run. While a run has a
critical alert its warnings are held back, while the monitor is down all that depends on it is. A finding that gains
tensors does not page again; one that another open finding explains is not alerted, nor is one that is acknowledged or
muted. Nothing is alerted of a run that is muted as a whole. Every alert has the annotations `summary`, `description`,
`action` (what to do) and `runbook_url`; one about a run also `run_url`, or `finding_url`, `tensors` and
`last_clean_save` where it is about a finding. Links to pages begin with `--public-url`.

`promtool test rules tests.yml` (in `dashboards/prometheus/`) shows of every alert that it fires, not before its `for`,
and not when all is well. Thresholds of the alerts on runs and the monitor are in `rules/thresholds.yml`, for you to
edit; those of detectors are the monitor's: [contract.md](contract.md).

"""


def alerts_page() -> str:
    """The page's text."""
    found = []
    for one in detector_alerts():
        name = one.runbook.rpartition("#")[2]
        found.append((f"`{one.name}`", one.hold, f"[{name}](detectors.md#{name})"))
    sections = "\n".join(
        f"### {one.name}\n\n*{one.severity}, for {one.hold}.* {one.summary.partition(' (run')[0]}. "
        f"{one.expanded.get('description', one.description)}\n\n**What to do.** {one.action}\n\n```\n{one.expr}\n```\n"
        for one in (*RUN_ALERTS, *MONITOR_ALERTS)
    )
    return (
        GENERATED.format(source="trainvitals_monitor/generate/alerting/")
        + _INTRODUCTION
        + "## Runs and the monitor\n\n"
        + sections
        + "\n## Findings\n\nOne a detector, whose page says what it means and what to do. The severity is the finding's.\n\n"
        + table(("alert", "for", "meaning"), found)
        + "\n## Thresholds\n\n"
        + table(
            ("series", "value", "why"),
            [(f"`{one.record}`", f"{one.value:g}", one.why) for one in THRESHOLDS],
        )
        + "\n## Recording rules\n\n"
        + table(("series", "of"), [(f"`{one.record}`", f"`{one.expr}`") for one in RECORDINGS])
    )
