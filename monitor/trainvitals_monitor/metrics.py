"""
What Prometheus gets: METRICS is every metric there is, declared once; the collector fills them from the monitor.

The number of series is bounded: a few per run, runs beyond MAX_RUNS are left out and counted, and a run's series end
some minutes after the run. Nothing is a label that grows without bound: no step, no tensor, no file name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from trainvitals.frame import SCHEMA_VERSION
from trainvitals_monitor.counters import ERROR_STAGES
from trainvitals_monitor.first_cause import standing
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.refusal import FRAME_REASONS
from trainvitals_monitor.snapshot import coverage_ratio, ranks_reporting

MAX_RUNS = 200
"""Runs with series of their own; those used last come first."""
LINGER_S = 300.0
"""How long a run's series stay after it was closed: some scrapes."""
DROPPED = ("frames", "rows", "spool", "late")
"""What can be dropped: by the agent before sending, or here because it came after its step was judged."""


@dataclass(frozen=True)
class MetricSpec:
    """One metric: name (without the suffix that its type adds), type, labels and help."""

    name: str
    type: Literal["gauge", "counter", "info"]
    labels: tuple[str, ...]
    help: str

    @property
    def exposed(self) -> str:
        """The name that a query uses."""
        return self.name + {"gauge": "", "counter": "_total", "info": "_info"}[self.type]


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_run_step", "gauge", ("run",), "Last judged optimizer step, as the trainer counts."),
    MetricSpec("trainvitals_run_loss", "gauge", ("run",), "Loss as last logged by the trainer."),
    MetricSpec("trainvitals_run_learning_rate", "gauge", ("run",), "Largest learning rate of all parameter groups."),
    MetricSpec("trainvitals_run_step_seconds", "gauge", ("run",), "Median duration of the last optimizer steps, slowest rank."),
    MetricSpec("trainvitals_run_agent_share_ratio", "gauge", ("run",), "Share of step time that the agent took, lately."),
    MetricSpec("trainvitals_run_last_seen_timestamp_seconds", "gauge", ("run",), "When the run was last heard of."),
    MetricSpec("trainvitals_run_ranks", "gauge", ("run",), "World size of the latest attempt."),
    MetricSpec(
        "trainvitals_run_ranks_reporting", "gauge", ("run",), "Ranks heard of within a minute of the one heard last."
    ),
    MetricSpec("trainvitals_run_tensors", "gauge", ("run",), "Parameters and buffers of the latest attempt."),
    MetricSpec("trainvitals_run_coverage_ratio", "gauge", ("run",), "Share of tensors looked at in this attempt."),
    MetricSpec("trainvitals_run_attempts", "gauge", ("run",), "Attempts of the run so far."),
    MetricSpec(
        "trainvitals_finding_active", "gauge", ("run", "detector", "severity"),
        "Open findings that no other open one explains; 0 once resolved or explained.",
    ),
    MetricSpec(
        "trainvitals_findings_opened", "counter", ("run", "detector", "severity"), "Findings ever opened in the run."
    ),
    MetricSpec("trainvitals_run_dropped", "counter", ("run", "what"), "What agents dropped, or sent too late to be judged."),
    MetricSpec("trainvitals_runs_left_out", "gauge", (), "Live runs without series of their own: the cap was reached."),
    MetricSpec("trainvitals_monitor_frames_accepted", "counter", (), "Frames stored."),
    MetricSpec("trainvitals_monitor_frames_duplicate", "counter", (), "Frames that were there already."),
    MetricSpec("trainvitals_monitor_frames_refused", "counter", ("reason",), "Frames answered with 4xx or 503."),
    MetricSpec("trainvitals_monitor_frame_bytes", "counter", (), "Bytes of the frames stored."),
    MetricSpec("trainvitals_monitor_queue_frames", "gauge", (), "Frames that wait for the writer."),
    MetricSpec("trainvitals_monitor_queue_bytes", "gauge", (), "Bytes that wait for the writer."),
    MetricSpec(
        "trainvitals_monitor_ingest_seconds", "counter", ("stage",), "Time spent on frames, by what was done."
    ),
    MetricSpec("trainvitals_monitor_commits", "counter", (), "Transactions that stored frames."),
    MetricSpec("trainvitals_monitor_errors", "counter", ("stage",), "Faults of the monitor's own; each is in its log."),
    MetricSpec("trainvitals_detector_seconds", "counter", ("detector",), "Time spent in a detector."),
    MetricSpec("trainvitals_detector_failures", "counter", ("detector",), "Times that a detector raised."),
    MetricSpec("trainvitals_monitor_store_bytes", "gauge", (), "Size of the store on disk."),
    MetricSpec("trainvitals_monitor_ready", "gauge", (), "1: frames are taken; 0: starting, ending or in trouble."),
    MetricSpec("trainvitals_build", "info", ("version", "schema"), "Which trainvitals this is."),
)  # fmt: skip
_SPECS = {spec.name: spec for spec in METRICS}

Value = tuple[str, tuple[str, ...], float]
"""A metric's name, its labels and its value."""


class MonitorCollector(Collector):
    """Reads the monitor anew at every scrape; about 1 ms for ten runs."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Every metric of METRICS, also those without a series now."""
        families = {spec.name: _family(spec) for spec in METRICS}
        live = [run for run in self._monitor.roster.all() if not _is_over(run)]
        for run in live[-MAX_RUNS:]:
            _add(families, _of_run(run))
        left_out = max(0, len(live) - MAX_RUNS)
        _add(families, [("trainvitals_runs_left_out", (), left_out)])
        _add(families, _of_detectors(live))
        _add(families, _of_monitor(self._monitor))
        build = (self._monitor.version, str(SCHEMA_VERSION))
        _add(families, [("trainvitals_build", build, 1)])
        yield from families.values()

    def describe(self) -> Iterable[Metric]:
        """The names, so that registering needs no scrape."""
        return [_family(spec) for spec in METRICS]


def _family(spec: MetricSpec) -> Metric:
    return Metric(spec.name, spec.help, spec.type)


def _add(families: dict[str, Metric], values: Iterable[Value]) -> None:
    for name, labels, value in values:
        family = families[name]
        spec = _SPECS[name]
        family.add_sample(spec.exposed, dict(zip(spec.labels, labels, strict=True)), float(value))


def _is_over(run: LiveRun) -> bool:
    """Closed, and long enough for the last scrapes."""
    return run.closed_at is not None and time.monotonic() - run.closed_at > LINGER_S


def _of_run(run: LiveRun) -> Iterator[Value]:
    with run.lock:
        said, findings = run.engine.summary(), run.engine.findings
        covered, reporting = coverage_ratio(run.engine), ranks_reporting(run.engine)
    if not said:
        return
    own = (run.name,)
    optional = {
        "loss": said["loss"],
        "learning_rate": said["lr"],
        "step_seconds": said["step_seconds"],
        "agent_share_ratio": said["agent_share"],
    }
    for name, value in optional.items():
        if value is not None:
            yield f"trainvitals_run_{name}", own, value
    yield "trainvitals_run_step", own, said["step"]
    yield "trainvitals_run_last_seen_timestamp_seconds", own, said["last_seen"]
    yield "trainvitals_run_ranks", own, said["world_size"]
    yield "trainvitals_run_ranks_reporting", own, reporting
    yield "trainvitals_run_tensors", own, said["tensors"]
    yield "trainvitals_run_coverage_ratio", own, covered
    yield "trainvitals_run_attempts", own, said["attempts"]
    for what in DROPPED:
        yield "trainvitals_run_dropped", (*own, what), said["dropped"].get(what, 0)
    opened = Counter((one.detector, one.severity.value) for one in findings)
    active = Counter((one.detector, one.severity.value) for one in standing(findings))
    for (detector, severity), count in sorted(opened.items()):
        yield "trainvitals_findings_opened", (*own, detector, severity), count
        yield "trainvitals_finding_active", (*own, detector, severity), active[detector, severity]


def _of_detectors(live: list[LiveRun]) -> Iterator[Value]:
    seconds: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for run in live:
        seconds.update(run.engine.detector_seconds)
        failures.update(run.engine.detector_failures)
    for detector in sorted(seconds):
        yield "trainvitals_detector_seconds", (detector,), seconds[detector]
        yield "trainvitals_detector_failures", (detector,), failures[detector]


def _of_monitor(monitor: Monitor) -> Iterator[Value]:
    counted = monitor.counters
    frames, size = monitor.queued()
    yield "trainvitals_monitor_frames_accepted", (), counted.accepted
    yield "trainvitals_monitor_frames_duplicate", (), counted.duplicates
    yield "trainvitals_monitor_frame_bytes", (), counted.accepted_bytes
    yield "trainvitals_monitor_commits", (), counted.commits
    yield "trainvitals_monitor_queue_frames", (), frames
    yield "trainvitals_monitor_queue_bytes", (), size
    for reason in FRAME_REASONS:
        yield "trainvitals_monitor_frames_refused", (reason,), counted.refused[reason]
    for stage, seconds in counted.seconds.items():
        yield "trainvitals_monitor_ingest_seconds", (stage,), seconds
    for stage in ERROR_STAGES:
        yield "trainvitals_monitor_errors", (stage,), counted.errors[stage]
    yield "trainvitals_monitor_store_bytes", (), monitor.store.size_bytes()
    yield "trainvitals_monitor_ready", (), not monitor.trouble()
