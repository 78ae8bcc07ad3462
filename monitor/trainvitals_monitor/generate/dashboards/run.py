"""
The dashboard Run: one run's loss and learning rate, what was found, its layers, ranks and coverage.
"""

from __future__ import annotations

from trainvitals_monitor.generate.dashboards.board import Board, Limit, Panel, Query, Row
from trainvitals_monitor.generate.dashboards.overview import BUDGET
from trainvitals_monitor.generate.dashboards.queries import added, per_second, select
from trainvitals_monitor.generate.dashboards.shared import (
    ANY,
    OPEN,
    RUN,
    by,
    findings_table,
    layers_of,
    number,
    one,
)
from trainvitals_monitor.generate.dashboards.state import LAYERS, ROLES

TRAINING = Row(
    title="Training",
    panels=(
        number(
            "Step",
            "Last judged optimizer step, as the trainer counts.",
            one("trainvitals_run_step", "step"),
        ),
        number(
            "Last heard of",
            "Seconds since the monitor last heard of the run.",
            Query(
                f"time() - max({select('trainvitals_run_last_seen_timestamp_seconds')})",
                "ago",
            ),
            unit="s",
        ),
        number(
            "Ranks reporting",
            "Share of the expected ranks that were heard of within a minute of the one heard last.",
            Query(
                f"sum({select('trainvitals_run_ranks_reporting')}) / sum({select('trainvitals_run_ranks')})",
                "ranks",
            ),
            Limit(1, "Red below all of them.", above=False),
            unit="percentunit",
        ),
        number(
            "Open findings now",
            "Open critical findings and warnings of the run.",
            Query(
                f"sum({select('trainvitals_finding_active', severity='~critical|warning')}) or vector(0)",
                "findings",
            ),
            ANY,
        ),
        number(
            "Attempts",
            "Attempts of the run so far: 1 means that it was never restarted.",
            one("trainvitals_run_attempts", "attempts"),
        ),
        number(
            "Tensors",
            "Parameters and buffers of the latest attempt.",
            one("trainvitals_run_tensors", "tensors"),
        ),
        Panel(
            title="Loss",
            description="Loss as last logged by the trainer; a gap where it is not finite. Open findings are marked.",
            unit="none",
            queries=(one("trainvitals_run_loss", "loss"),),
        ),
        Panel(
            title="Learning rate",
            description="The largest learning rate of all parameter groups.",
            unit="sci",
            queries=(one("trainvitals_run_learning_rate", "learning rate"),),
        ),
        Panel(
            title="Step time",
            description="Median duration of the last optimizer steps, of the slowest rank.",
            unit="s",
            minimum=0,
            queries=(one("trainvitals_run_step_seconds", "step"),),
        ),
        Panel(
            title="Phase",
            description="What the trainer does: 1 for the phase it is in.",
            unit="bool",
            minimum=0,
            maximum=1,
            queries=(by("phase", "trainvitals_run_phase"),),
        ),
    ),
)

FINDINGS = Row(
    title="Findings",
    panels=(
        findings_table(
            "Open findings",
            "What is wrong now, without what another open finding explains; the page has evidence and advice.",
        ),
        Panel(
            title="Tensors that findings are about",
            description="Subjects of the open findings, of the worst findings first; the finding's page has all of them.",
            kind="table",
            unit="none",
            queries=(
                Query(
                    f"max by (severity, detector, tensor) ({select('trainvitals_offender_active')})"
                ),
            ),
            columns=(("severity", "Severity"), ("detector", "Detector"), ("tensor", "Tensor")),
            values=False,
        ),
        Panel(
            title="Open findings by detector",
            description="Open findings over time, by detector; back to 0 once resolved.",
            unit="short",
            minimum=0,
            queries=(
                Query(
                    f"sum by (detector) ({select('trainvitals_finding_active')})", "{{detector}}"
                ),
            ),
        ),
    ),
)

RANKS = Row(
    title="Ranks, coverage and the agent",
    panels=(
        Panel(
            title="Ranks",
            description="Ranks that are expected, that report, and that are many steps behind.",
            unit="short",
            minimum=0,
            queries=(
                one("trainvitals_run_ranks", "expected"),
                one("trainvitals_run_ranks_reporting", "reporting"),
                one("trainvitals_run_ranks_behind", "behind"),
            ),
        ),
        Panel(
            title="Slowest rank",
            description="Steps that the slowest rank is behind the one that is furthest.",
            unit="short",
            minimum=0,
            queries=(one("trainvitals_run_lag_steps", "behind"),),
        ),
        Panel(
            title="Coverage",
            description="Share of tensors that were looked at in this attempt.",
            unit="percentunit",
            minimum=0,
            maximum=1,
            queries=(one("trainvitals_run_coverage_ratio", "looked at"),),
        ),
        Panel(
            title="Oldest look",
            description="Steps since the tensor that waited longest was last looked at: what a fault in it may take to be found.",
            unit="short",
            minimum=0,
            queries=(one("trainvitals_run_oldest_look_steps", "steps"),),
        ),
        Panel(
            title="Agent's share of step time",
            description="Share of step time that the agent took, measured by itself.",
            unit="percentunit",
            minimum=0,
            limits=(BUDGET,),
            queries=(one("trainvitals_run_agent_share_ratio", "agent"),),
        ),
        Panel(
            title="Sent and dropped",
            description="Frames of the run stored, those of them that had waited on a trainer's disk, and what was dropped or came too late, in each interval.",
            unit="short",
            minimum=0,
            queries=(
                Query(f"sum({added('trainvitals_run_frames_total')})", "stored"),
                Query(f"sum({added('trainvitals_run_frames_spooled_total')})", "waited on disk"),
                one("trainvitals_run_waiting_frames", "wait on disk now"),
                Query(
                    f"sum by (what) ({added('trainvitals_run_dropped_total')})", "dropped: {{what}}"
                ),
            ),
        ),
        Panel(
            title="Bytes stored",
            description="Bytes of the run's frames a second.",
            unit="Bps",
            minimum=0,
            queries=(Query(f"sum({per_second('trainvitals_run_frame_bytes_total')})", "bytes"),),
        ),
        Panel(
            title="Series of the run",
            description="Series that the run has in Prometheus, and those that the cap left out.",
            unit="short",
            minimum=0,
            queries=(
                one("trainvitals_run_series", "series"),
                one("trainvitals_run_series_left_out", "left out"),
            ),
        ),
    ),
)

RUN_BOARD = Board(
    name="run",
    title="trainvitals / Run",
    description="One run: loss and learning rate, what was found, layers as heat maps, ranks and coverage.",
    variables=(RUN, layers_of("trainvitals_layer_norm")),
    findings=OPEN,
    rows=(TRAINING, FINDINGS, LAYERS, ROLES, RANKS),
)
