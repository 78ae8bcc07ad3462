"""
Metrics of a run as a whole: how far it is, who reports, what the agent costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from trainvitals.frame import Phase
from trainvitals_monitor.metrics.block import Sample
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.spec import MetricSpec

DROPPED = ("frames", "rows", "manifest entries", "spool", "late")
"""What can be dropped: by the agent before sending, or here because it came after its step was judged."""
PHASES: tuple[str, ...] = get_args(Phase)

RUN_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_run", "info", ("run", "page"), "The run's page, through --public-url."),
    MetricSpec("trainvitals_run_phase", "gauge", ("run", "phase"), "1 for the phase that the run is in, 0 for the others.", len(PHASES)),
    MetricSpec("trainvitals_run_muted", "gauge", ("run",), "1 while somebody muted everything of the run, 0 else."),
    MetricSpec("trainvitals_run_step", "gauge", ("run",), "Last judged optimizer step, as the trainer counts."),
    MetricSpec("trainvitals_run_loss", "gauge", ("run",), "Loss as last logged by the trainer; absent while it is not finite."),
    MetricSpec("trainvitals_run_loss_finite", "gauge", ("run",), "1 if the loss last logged is a finite number, 0 if not."),
    MetricSpec("trainvitals_run_learning_rate", "gauge", ("run",), "Largest learning rate of all parameter groups."),
    MetricSpec("trainvitals_run_step_seconds", "gauge", ("run",), "Median duration of the last optimizer steps, slowest rank."),
    MetricSpec("trainvitals_run_agent_share_ratio", "gauge", ("run",), "Share of step time that the agent took, lately."),
    MetricSpec("trainvitals_run_last_seen_timestamp_seconds", "gauge", ("run",), "When the monitor last heard of the run, by its own clock."),
    MetricSpec("trainvitals_run_started_timestamp_seconds", "gauge", ("run",), "When the latest attempt began, by the trainer's clock."),
    MetricSpec("trainvitals_run_ranks", "gauge", ("run",), "World size of the latest attempt: the ranks that are expected."),
    MetricSpec("trainvitals_run_ranks_reporting", "gauge", ("run",), "Ranks heard of within a minute of the one heard last, or done."),
    MetricSpec("trainvitals_run_ranks_behind", "gauge", ("run",), "Ranks more than 64 steps behind the one that is furthest."),
    MetricSpec("trainvitals_run_lag_steps", "gauge", ("run",), "Steps that the slowest rank is behind the one that is furthest."),
    MetricSpec("trainvitals_run_tensors", "gauge", ("run",), "Parameters and buffers of the latest attempt."),
    MetricSpec("trainvitals_run_coverage_ratio", "gauge", ("run",), "Share of tensors looked at in this attempt."),
    MetricSpec("trainvitals_run_oldest_look_steps", "gauge", ("run",), "Steps since the longest past last look at a tensor's values."),
    MetricSpec("trainvitals_run_attempts", "gauge", ("run",), "Attempts of the run so far."),
    MetricSpec("trainvitals_run_frames", "counter", ("run",), "Frames of the run that were stored since the monitor started."),
    MetricSpec("trainvitals_run_frame_bytes", "counter", ("run",), "Bytes of these frames."),
    MetricSpec("trainvitals_run_frames_spooled", "counter", ("run",), "Frames of the run that had waited on a trainer's disk, since the monitor started."),
    MetricSpec("trainvitals_run_waiting_frames", "gauge", ("run",), "Frames that wait on trainers' disks, as told with the last one that came from there."),
    MetricSpec("trainvitals_run_dropped", "counter", ("run", "what"), "What agents dropped, or sent too late to be judged.", len(DROPPED)),
    MetricSpec("trainvitals_run_series", "gauge", ("run",), "Series of the run at this scrape."),
    MetricSpec("trainvitals_run_series_left_out", "gauge", ("run",), "Series of the run that a cap left out at this scrape."),
)  # fmt: skip

BEHIND_STEPS = 64


def run_samples(copied: Copied) -> Iterator[Sample]:
    """All but the count of series, which is known last."""
    said, own = copied.said, (copied.run,)
    yield "trainvitals_run", (*own, copied.page), 1
    for phase in PHASES:
        yield "trainvitals_run_phase", (*own, phase), phase == said["phase"]
    yield "trainvitals_run_muted", own, copied.silenced
    loss = said["loss"]
    if loss is not None:
        is_finite = abs(loss) < float("inf")
        yield "trainvitals_run_loss_finite", own, is_finite
        yield "trainvitals_run_loss", own, loss if is_finite else float("nan")
    optional = {
        "learning_rate": said["lr"],
        "step_seconds": said["step_seconds"],
        "agent_share_ratio": said["agent_share"],
        "oldest_look_steps": copied.oldest_look,
    }
    for name, value in optional.items():
        if value is not None:
            yield f"trainvitals_run_{name}", own, value
    yield "trainvitals_run_step", own, said["step"]
    yield "trainvitals_run_last_seen_timestamp_seconds", own, copied.last_heard
    yield "trainvitals_run_started_timestamp_seconds", own, said["started_at"]
    yield "trainvitals_run_ranks", own, said["world_size"]
    yield "trainvitals_run_ranks_reporting", own, copied.reporting
    yield "trainvitals_run_ranks_behind", own, sum(lag > BEHIND_STEPS for lag in copied.lags)
    yield "trainvitals_run_lag_steps", own, max(copied.lags, default=0)
    yield "trainvitals_run_tensors", own, said["tensors"]
    yield "trainvitals_run_coverage_ratio", own, copied.covered
    yield "trainvitals_run_attempts", own, said["attempts"]
    yield "trainvitals_run_frames", own, copied.frames
    yield "trainvitals_run_frame_bytes", own, copied.frame_bytes
    yield "trainvitals_run_frames_spooled", own, copied.frames_spooled
    yield "trainvitals_run_waiting_frames", own, copied.frames_waiting
    for what in DROPPED:
        yield "trainvitals_run_dropped", (*own, what), said["dropped"].get(what, 0)
