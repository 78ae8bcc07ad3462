"""
How an alert that no detector gives is declared; about_runs.py and about_monitor.py have them.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainvitals_monitor.generate.alerting.alert_rule import (
    DOCS,
    JOB,
    RUN,
    AlertRule,
    Series,
    scraped,
    words,
)

_PAGE = "https://vitals.example/runs/moe-1"
_ADDRESS = 'printf "trainvitals_run_info{run=%q}" $labels.run | query'


def above(recorded: str, threshold: str) -> str:
    """Where a series lies above one of the thresholds that operators edit."""
    return f"{recorded} > on () group_left () trainvitals:{threshold}:threshold"


def of_run(
    name: str, severity: str, hold: str, expr: str, summary: str, description: str, action: str,
    *, firing: Series, quiet: tuple[Series, ...], onset: int = 10, said: str = "",
    tensors: str = "", named: str = "",
) -> AlertRule:  # fmt: skip
    """
    An alert about one run; `name` as a detector's would be. A run that somebody muted as a whole has none.

    `said`: the description as the series of `firing` expand it. `tensors`: an expression whose largest three are
    named, `named`: what that gives.
    """
    links = {"run_url": f'{{{{ with {_ADDRESS} }}}}{{{{ . | first | label "page" }}}}{{{{ end }}}}'}
    expanded = {"summary": f"{summary} (run {RUN})", "run_url": _PAGE}
    if said:
        expanded["description"] = said
    if tensors:
        asked = f'printf "topk(3, {tensors.replace("RUN", "run=%q")})" $labels.run | query'
        links["tensors"] = f"{{{{ range {asked} }}}}{{{{ .Labels.tensor }}}} {{{{ end }}}}"
        expanded["tensors"] = named
    muted = scraped("trainvitals_run_muted", run=RUN)
    return AlertRule(
        name=_full(name),
        expr=f"({expr}) unless on (job, run) trainvitals_run_muted == 1",
        hold=hold,
        severity=severity,
        detector=name,
        summary=f"{summary} (run {{{{ $labels.run }}}})",
        description=description,
        action=action,
        runbook=_page(name),
        links=links,
        firing={**firing, scraped("trainvitals_run_info", run=RUN, page=_PAGE): "1x60"},
        quiet=(*quiet, {**firing, muted: "1x60"}),
        onset=onset,
        labels={"job": JOB, "run": RUN},
        expanded=expanded,
    )


def of_monitor(
    name: str, severity: str, hold: str, expr: str, summary: str, description: str, action: str,
    *, firing: Series, quiet: tuple[Series, ...], onset: int = 10, said: str = "",
    labels: Mapping[str, str] | None = None,
) -> AlertRule:  # fmt: skip
    """An alert about the monitor; `labels`: those of the expression."""
    labels = {"job": JOB} if labels is None else labels
    return AlertRule(
        name=_full(name),
        expr=expr,
        hold=hold,
        severity=severity,
        detector="" if "detector" in labels else name,
        summary=summary,
        description=description,
        action=action,
        runbook=_page(name),
        firing=firing,
        quiet=quiet,
        onset=onset,
        labels=labels,
        expanded={"description": said} if said else {},
    )


def _full(name: str) -> str:
    return f"Trainvitals{words(name)}"


def _page(name: str) -> str:
    return f"{DOCS}alerts.md#{_full(name).lower()}"
