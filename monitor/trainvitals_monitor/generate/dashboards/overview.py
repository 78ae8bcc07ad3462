"""
The dashboard Overview: all runs, what is on fire, and what the agents cost.
"""

from __future__ import annotations

from trainvitals.settings import SETTINGS
from trainvitals_monitor.generate.dashboards.board import (
    Board,
    Limit,
    Panel,
    Query,
    Row,
    link_to,
)
from trainvitals_monitor.generate.dashboards.queries import added, per_second, select
from trainvitals_monitor.generate.dashboards.shared import ANY, OPEN, RUNS, findings_table
from trainvitals_monitor.metrics import MAX_SERIES_PER_RUN

_BUDGET = float(next(one.default for one in SETTINGS if one.name == "budget"))
BUDGET = Limit(_BUDGET, f"Red above {_BUDGET:g}, the default of the setting `budget`.")


def _count(severity: str) -> Query:
    return Query(
        f"sum({select('trainvitals_finding_active', severity=severity)}) or vector(0)", severity
    )


def _of_runs(metric: str, heading: str, unit: str = "none", **matchers: str) -> Query:
    return Query(f"max by (run) ({select(metric, **matchers)})", heading, unit)


def _found(severity: str) -> Query:
    active = select("trainvitals_finding_active", severity=severity)
    return Query(
        f"sum by (run) ({active}) or 0 * max by (run) ({select('trainvitals_run_step')})",
        severity.capitalize(),
    )


OVERVIEW = Board(
    name="overview",
    title="trainvitals / Overview",
    description="All runs: what is on fire, how far each is, and what the agents cost.",
    variables=(RUNS,),
    findings=OPEN,
    rows=(
        Row(
            title="What is on fire",
            panels=(
                Panel(
                    title="Runs",
                    description="Runs that the monitor has series of.",
                    kind="stat",
                    unit="short",
                    width=6,
                    height=4,
                    queries=(Query(f"count({select('trainvitals_run_step')})", "runs"),),
                ),
                Panel(
                    title="Critical",
                    description="Open critical findings: state that is wrong now and will not heal by itself.",
                    kind="stat",
                    unit="short",
                    width=6,
                    height=4,
                    limits=(ANY,),
                    queries=(_count("critical"),),
                ),
                Panel(
                    title="Warnings",
                    description="Open warnings: probably wrong, to be looked at today.",
                    kind="stat",
                    unit="short",
                    width=6,
                    height=4,
                    limits=(ANY,),
                    queries=(_count("warning"),),
                ),
                Panel(
                    title="Ranks not reporting",
                    description="Ranks that are expected and were not heard of within a minute of the one heard last.",
                    kind="stat",
                    unit="short",
                    width=6,
                    height=4,
                    limits=(ANY,),
                    queries=(
                        Query(
                            f"sum({select('trainvitals_run_ranks')} - {select('trainvitals_run_ranks_reporting')})",
                            "ranks",
                        ),
                    ),
                ),
                findings_table(
                    "Open findings",
                    "What is wrong now, without what another open finding explains; the page has evidence and advice.",
                ),
                Panel(
                    title="Open findings by run",
                    description="Open findings above info over time, by run and severity.",
                    unit="short",
                    width=24,
                    minimum=0,
                    queries=(
                        Query(
                            f"sum by (run, severity) ({select('trainvitals_finding_active', severity='~critical|warning')})",
                            "{{run}} {{severity}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="Runs",
            panels=(
                Panel(
                    title="All runs",
                    description="One row a run; a click on its name opens the dashboard of that run.",
                    kind="table",
                    unit="none",
                    width=24,
                    height=10,
                    columns=(("run", "Run"),),
                    links=(link_to("run", "Open the run"),),
                    queries=(
                        _found("critical"),
                        _found("warning"),
                        _of_runs("trainvitals_run_step", "Step"),
                        _of_runs("trainvitals_run_loss", "Loss"),
                        _of_runs("trainvitals_run_step_seconds", "Step time", "s"),
                        _of_runs("trainvitals_run_ranks_reporting", "Ranks reporting"),
                        _of_runs("trainvitals_run_ranks", "Ranks"),
                        Query(
                            f"time() - max by (run) ({select('trainvitals_run_last_seen_timestamp_seconds')})",
                            "Last heard of",
                            "s",
                        ),
                    ),
                ),
                Panel(
                    title="Loss of all runs",
                    description="Loss as last logged by each trainer; a gap where it is not finite.",
                    unit="none",
                    queries=(_of_runs("trainvitals_run_loss", "{{run}}"),),
                ),
                Panel(
                    title="Steps a second",
                    description="How fast each run's step number grows.",
                    unit="cps",
                    minimum=0,
                    queries=(
                        Query(
                            f"max by (run) (deriv({select('trainvitals_run_step')}[$__rate_interval]))",
                            "{{run}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            title="What the agents cost",
            panels=(
                Panel(
                    title="Share of step time",
                    description="Share of step time that each run's agent took, measured by itself.",
                    unit="percentunit",
                    minimum=0,
                    limits=(BUDGET,),
                    queries=(_of_runs("trainvitals_run_agent_share_ratio", "{{run}}"),),
                ),
                Panel(
                    title="Bytes sent",
                    description="Bytes of frames a second that the monitor stored of each run.",
                    unit="Bps",
                    minimum=0,
                    queries=(
                        Query(
                            f"sum by (run) ({per_second('trainvitals_run_frame_bytes_total')})",
                            "{{run}}",
                        ),
                    ),
                ),
                Panel(
                    title="Dropped",
                    description="Frames and rows that agents dropped, lost from a full spool, or sent too late to be judged.",
                    unit="short",
                    minimum=0,
                    queries=(
                        Query(
                            f"sum by (run, what) ({added('trainvitals_run_dropped_total')})",
                            "{{run}} {{what}}",
                        ),
                    ),
                ),
                Panel(
                    title="Waiting on trainers' disks",
                    description="Frames that wait on trainers' disks, as last told: what is wrong now is found when they have come.",
                    unit="short",
                    minimum=0,
                    queries=(_of_runs("trainvitals_run_waiting_frames", "{{run}}"),),
                ),
                Panel(
                    title="Series",
                    description="Series that each run has in Prometheus.",
                    unit="short",
                    minimum=0,
                    limits=(
                        Limit(
                            MAX_SERIES_PER_RUN,
                            f"Red at {MAX_SERIES_PER_RUN}, the cap of a run.",
                        ),
                    ),
                    queries=(_of_runs("trainvitals_run_series", "{{run}}"),),
                ),
            ),
        ),
    ),
)
