"""
Metrics of the monitor itself: what it takes, how long that takes, and what goes wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

from prometheus_client import ProcessCollector

from trainvitals.frame import SCHEMA_VERSION
from trainvitals_monitor.counters import ERROR_STAGES, STAGES
from trainvitals_monitor.delivery import OUTCOMES
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.metrics.block import Sample
from trainvitals_monitor.metrics.spec import MetricSpec
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.refusal import FRAME_REASONS

SERVICE_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_runs", "gauge", (), "Runs in memory that are not over."),
    MetricSpec("trainvitals_runs_left_out", "gauge", (), "Of these, runs without any series of their own: the cap was reached."),
    MetricSpec("trainvitals_monitor_series", "gauge", (), "Series of all runs at this scrape."),
    MetricSpec("trainvitals_monitor_series_left_out", "gauge", (), "Series that a cap left out at this scrape, of runs that have any."),
    MetricSpec("trainvitals_monitor_scrape_cpu_seconds", "gauge", (), "CPU time that the scrape before this one took."),
    MetricSpec("trainvitals_monitor_frames_accepted", "counter", (), "Frames stored."),
    MetricSpec("trainvitals_monitor_frames_duplicate", "counter", (), "Frames that were there already."),
    MetricSpec("trainvitals_monitor_frames_refused", "counter", ("reason",), "Frames answered with 4xx or 503.", len(FRAME_REASONS)),
    MetricSpec("trainvitals_monitor_frame_bytes", "counter", (), "Bytes of the frames stored."),
    MetricSpec("trainvitals_monitor_queue_frames", "gauge", (), "Frames that wait for the writer."),
    MetricSpec("trainvitals_monitor_queue_bytes", "gauge", (), "Bytes that wait for the writer."),
    MetricSpec("trainvitals_monitor_ingest_lag_seconds", "gauge", (), "From the arrival to the store: the longest wait of a frame in the last transaction."),
    MetricSpec("trainvitals_monitor_ingest_seconds", "counter", ("stage",), "Time spent on frames, by what was done.", len(STAGES)),
    MetricSpec("trainvitals_monitor_commits", "counter", (), "Transactions that stored frames."),
    MetricSpec("trainvitals_monitor_errors", "counter", ("stage",), "Faults of the monitor's own; each is in its log.", len(ERROR_STAGES)),
    MetricSpec("trainvitals_monitor_notifications", "counter", ("outcome",), "Deliveries of notifications: sent, failed (it is tried again), dropped.", len(OUTCOMES)),
    MetricSpec("trainvitals_monitor_notifications_waiting", "gauge", (), "Notifications that were not delivered yet."),
    MetricSpec("trainvitals_detector_seconds", "counter", ("detector",), "CPU time spent in a detector, estimated from one step in seven.", len(DETECTORS)),
    MetricSpec("trainvitals_detector_failures", "counter", ("detector",), "Times that a detector raised.", len(DETECTORS)),
    MetricSpec("trainvitals_monitor_store_bytes", "gauge", (), "Size of the store on disk."),
    MetricSpec("trainvitals_monitor_ready", "gauge", (), "1: frames are taken; 0: starting, ending or in trouble."),
    MetricSpec("trainvitals_build", "info", ("version", "schema"), "Which trainvitals this is."),
    MetricSpec("process_cpu_seconds", "counter", (), "User and system CPU time of the monitor."),
    MetricSpec("process_resident_memory_bytes", "gauge", (), "Memory of the monitor that is in RAM."),
    MetricSpec("process_start_time_seconds", "gauge", (), "When the monitor's process started, in Unix seconds."),
    MetricSpec("process_open_fds", "gauge", (), "Open file descriptors of the monitor."),
    MetricSpec("process_max_fds", "gauge", (), "The most file descriptors that it may open."),
)  # fmt: skip
_PROCESS = {spec.exposed: spec.name for spec in SERVICE_METRICS if spec.name.startswith("process_")}


class DetectorTotals:
    """What detectors did in all runs since the start. A run that leaves memory takes nothing away: counters only grow."""

    def __init__(self) -> None:
        self._counted: WeakKeyDictionary[Engine, dict[str, tuple[float, int]]] = WeakKeyDictionary()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._failures: Counter[str] = Counter()

    def samples(self, runs: Iterable[LiveRun]) -> Iterator[Sample]:
        """Of every detector, also before it looked at anything: a counter that begins above 0 seems not to grow."""
        for run in runs:
            self._count(run.engine)
        for detector in sorted(one.name for one in DETECTORS):
            yield "trainvitals_detector_seconds", (detector,), self._seconds[detector]
            yield "trainvitals_detector_failures", (detector,), self._failures[detector]

    def _count(self, engine: Engine) -> None:
        counted = self._counted.setdefault(engine, {})
        for name, seconds in engine.detector_seconds.items():
            failures = engine.detector_failures[name]
            before = counted.get(name, (0.0, 0))
            counted[name] = (seconds, failures)
            self._seconds[name] += seconds - before[0]
            self._failures[name] += failures - before[1]


def service_samples(monitor: Monitor) -> Iterator[Sample]:
    """The monitor, without its runs."""
    counted = monitor.counters
    frames, size = monitor.queued()
    yield "trainvitals_monitor_frames_accepted", (), counted.accepted
    yield "trainvitals_monitor_frames_duplicate", (), counted.duplicates
    yield "trainvitals_monitor_frame_bytes", (), counted.accepted_bytes
    yield "trainvitals_monitor_commits", (), counted.commits
    yield "trainvitals_monitor_queue_frames", (), frames
    yield "trainvitals_monitor_queue_bytes", (), size
    yield "trainvitals_monitor_ingest_lag_seconds", (), counted.lag_s
    for reason in FRAME_REASONS:
        yield "trainvitals_monitor_frames_refused", (reason,), counted.refused[reason]
    for stage, seconds in counted.seconds.items():
        yield "trainvitals_monitor_ingest_seconds", (stage,), seconds
    for stage in ERROR_STAGES:
        yield "trainvitals_monitor_errors", (stage,), counted.errors[stage]
    for outcome in OUTCOMES:
        yield "trainvitals_monitor_notifications", (outcome,), counted.notifications[outcome]
    waiting = monitor.notifier.waiting() if monitor.notifier else 0
    yield "trainvitals_monitor_notifications_waiting", (), waiting
    yield "trainvitals_monitor_store_bytes", (), monitor.store.size_bytes()
    yield "trainvitals_monitor_ready", (), not monitor.trouble()
    yield "trainvitals_build", (monitor.version, str(SCHEMA_VERSION)), 1


def process_samples(process: ProcessCollector) -> Iterator[Sample]:
    """What /proc tells of the process; nothing on a system that has none."""
    for family in process.collect():
        for sample in family.samples:
            if sample.name in _PROCESS:
                yield _PROCESS[sample.name], (), sample.value
