"""
The dashboard Monitor: whether the monitor itself is well.
"""

from __future__ import annotations

from trainvitals_monitor.config import Limits
from trainvitals_monitor.generate.dashboards.board import Board, Limit, Panel, Query, Row
from trainvitals_monitor.generate.dashboards.queries import added, per_second, select
from trainvitals_monitor.generate.dashboards.shared import ANY, number
from trainvitals_monitor.metrics import MAX_SERIES

_LIMITS = Limits()


def _one(metric: str, legend: str = "{{instance}}") -> Query:
    return Query(f"max by (instance) ({select(metric)})", legend)


STATE = Row(
    title="State",
    panels=(
        number(
            "Ready",
            "1: frames are taken; 0: starting, ending or in trouble.",
            Query(f"min({select('trainvitals_monitor_ready')})", "ready"),
            Limit(1, "Red at 0.", above=False),
            unit="bool",
        ),
        number(
            "Version",
            "Monitors of each version that are scraped: two while an upgrade is under way.",
            Query(f"count by (version) ({select('trainvitals_build_info')})", "{{version}}"),
            unit="none",
        ),
        number(
            "Up for",
            "Time since the monitor's process began.",
            Query(f"time() - min({select('process_start_time_seconds')})", "up"),
            unit="s",
        ),
        number(
            "Runs in memory",
            "Runs that are in memory and not over.",
            Query(f"sum({select('trainvitals_runs')})", "runs"),
            unit="short",
        ),
        number(
            "Runs left out",
            "Runs without any series of their own, because the cap was reached.",
            Query(f"sum({select('trainvitals_runs_left_out')})", "runs"),
            ANY,
            unit="short",
        ),
        number(
            "Store",
            "Size of the store on disk, now.",
            Query(f"sum({select('trainvitals_monitor_store_bytes')})", "store"),
            unit="bytes",
        ),
    ),
)

INGEST = Row(
    title="Frames",
    panels=(
        Panel(
            title="Frames a second",
            description="Frames stored, and frames that were there already.",
            unit="cps",
            minimum=0,
            queries=(
                Query(f"sum({per_second('trainvitals_monitor_frames_accepted_total')})", "stored"),
                Query(
                    f"sum({per_second('trainvitals_monitor_frames_duplicate_total')})", "duplicate"
                ),
            ),
        ),
        Panel(
            title="Frames refused",
            description="Frames answered with 4xx or 503 in each interval, by reason.",
            unit="short",
            minimum=0,
            queries=(
                Query(
                    f"sum by (reason) ({added('trainvitals_monitor_frames_refused_total')})",
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            title="Ingest lag",
            description="From the arrival of a frame to the store: the longest wait in the last transaction.",
            unit="s",
            minimum=0,
            queries=(_one("trainvitals_monitor_ingest_lag_seconds"),),
        ),
        Panel(
            title="Queue",
            description="Frames that wait for the writer.",
            unit="short",
            minimum=0,
            limits=(
                Limit(
                    _LIMITS.queue_frames,
                    f"Red at {_LIMITS.queue_frames}, where agents are told to wait.",
                ),
            ),
            queries=(_one("trainvitals_monitor_queue_frames"),),
        ),
        Panel(
            title="Bytes in the queue",
            description="Bytes that wait for the writer.",
            unit="bytes",
            minimum=0,
            limits=(
                Limit(_LIMITS.queue_bytes, "Red at the limit, where agents are told to wait."),
            ),
            queries=(_one("trainvitals_monitor_queue_bytes"),),
        ),
        Panel(
            title="Bytes stored a second",
            description="Bytes of the frames that were stored.",
            unit="Bps",
            minimum=0,
            queries=(
                Query(f"sum({per_second('trainvitals_monitor_frame_bytes_total')})", "frames"),
            ),
        ),
        Panel(
            title="Time by stage",
            description="Seconds a second that are spent on frames, by what is done: 1 is one core.",
            unit="none",
            minimum=0,
            queries=(
                Query(
                    f"sum by (stage) ({per_second('trainvitals_monitor_ingest_seconds_total')})",
                    "{{stage}}",
                ),
            ),
        ),
        Panel(
            title="Transactions a second",
            description="Transactions that stored frames; several frames share one when many wait.",
            unit="cps",
            minimum=0,
            queries=(Query(f"sum({per_second('trainvitals_monitor_commits_total')})", "commits"),),
        ),
    ),
)

DETECTION = Row(
    title="Detectors and faults",
    panels=(
        Panel(
            title="Time by detector",
            description="Seconds a second spent in each of the ten detectors that take most.",
            unit="none",
            minimum=0,
            queries=(
                Query(
                    f"topk(10, sum by (detector) ({per_second('trainvitals_detector_seconds_total')}))",
                    "{{detector}}",
                ),
            ),
        ),
        Panel(
            title="Failures of detectors",
            description="Times that a detector raised, in each interval; nothing is found by one that does.",
            unit="short",
            minimum=0,
            limits=(ANY,),
            queries=(
                Query(
                    f"sum by (detector) ({added('trainvitals_detector_failures_total')})",
                    "{{detector}}",
                ),
            ),
        ),
        Panel(
            title="Faults of the monitor's own",
            description="Errors of the monitor itself in each interval, by stage; each is in its log.",
            unit="short",
            minimum=0,
            limits=(ANY,),
            queries=(
                Query(f"sum by (stage) ({added('trainvitals_monitor_errors_total')})", "{{stage}}"),
            ),
        ),
        Panel(
            title="Notifications",
            description="Deliveries of `serve --notify` in each interval, by what became of them; one that failed is tried again.",
            unit="short",
            minimum=0,
            queries=(
                Query(
                    f"sum by (outcome) ({added('trainvitals_monitor_notifications_total')})",
                    "{{outcome}}",
                ),
                _one("trainvitals_monitor_notifications_waiting", "waiting"),
            ),
        ),
        Panel(
            title="Size of the store",
            description="Size of the store on disk, over time.",
            unit="bytes",
            minimum=0,
            queries=(_one("trainvitals_monitor_store_bytes"),),
        ),
    ),
)

COST = Row(
    title="What the monitor costs",
    panels=(
        Panel(
            title="CPU",
            description="Seconds of CPU a second that the monitor's process takes: 1 is one core.",
            unit="none",
            minimum=0,
            queries=(
                Query(
                    f"sum by (instance) ({per_second('process_cpu_seconds_total')})",
                    "{{instance}}",
                ),
            ),
        ),
        Panel(
            title="Memory",
            description="Memory of the monitor that is in RAM.",
            unit="bytes",
            minimum=0,
            queries=(_one("process_resident_memory_bytes"),),
        ),
        Panel(
            title="Series of all runs",
            description="Series at the last scrape, and those that a cap left out.",
            unit="short",
            minimum=0,
            limits=(Limit(MAX_SERIES, f"Red at {MAX_SERIES}, the cap of the monitor."),),
            queries=(
                _one("trainvitals_monitor_series", "series"),
                _one("trainvitals_monitor_series_left_out", "left out"),
            ),
        ),
        Panel(
            title="CPU time of a scrape",
            description="CPU time that rendering /metrics took, the last time.",
            unit="s",
            minimum=0,
            queries=(_one("trainvitals_monitor_scrape_cpu_seconds"),),
        ),
        Panel(
            title="File descriptors",
            description="Open file descriptors of the monitor, and the most that it may open.",
            unit="short",
            width=24,
            log=True,
            queries=(
                _one("process_open_fds", "open"),
                _one("process_max_fds", "allowed"),
            ),
        ),
    ),
)

MONITOR = Board(
    name="monitor",
    title="trainvitals / Monitor",
    description="The monitor itself: frames, queue, detectors, faults of its own, and what it costs.",
    variables=(),
    rows=(STATE, INGEST, DETECTION, COST),
)
