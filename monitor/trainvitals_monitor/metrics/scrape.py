"""
One scrape: every run's samples within the caps, then the monitor's own.

Runs come newest first, what is most needed of each first, and each leaves room for that of those that come after it: no
run is without its findings, however many series others have. Where the monitor's cap is reached, what is left out is always
the same, and is counted. A run's series end a quarter of an hour after it was closed, and a day after the last word of
one that vanished, so that nothing alerts on the dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector

from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.metrics.block import Block, Sample, blocks
from trainvitals_monitor.metrics.catalogue import METRICS, SPECS
from trainvitals_monitor.metrics.checkpoints import checkpoint_samples
from trainvitals_monitor.metrics.copied import Copied, copied
from trainvitals_monitor.metrics.exposition import exposition
from trainvitals_monitor.metrics.findings import finding_samples
from trainvitals_monitor.metrics.layout import Layout
from trainvitals_monitor.metrics.run import run_samples
from trainvitals_monitor.metrics.seats import Seats, seated
from trainvitals_monitor.metrics.service import DetectorTotals, process_samples, service_samples
from trainvitals_monitor.metrics.state import offender_samples, state_blocks
from trainvitals_monitor.metrics.watched import watched_blocks, watched_left_out
from trainvitals_monitor.monitor import Monitor

MAX_SERIES_PER_RUN = 3500
MAX_SERIES = 12_000
"""Of all runs together: what is rendered in 20 ms of CPU."""
MAX_RUNS = 100
"""Runs with series of their own."""
RESERVED = MAX_SERIES // MAX_RUNS
"""Series that each of them has room for: all about the run as a whole, and some twenty kinds of findings."""
LINGER_S = 900.0
"""How long a run's series stay after it was closed: longer than any alert waits, so that short runs are told of too."""
ABANDONED_S = 86_400.0
"""How long those of a run stay that vanished without a word."""
_OF_LAYERS = 5
_COUNTS = 2
"""The two series that say how many there are."""


class Known(NamedTuple):
    """What is kept of a run from one scrape to the next."""

    layout: Layout
    seats: Seats


class Scrape:
    """Renders the monitor anew at every call; any thread, one at a time. No lock of a run is held but while it is copied."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._process = ProcessCollector(registry=CollectorRegistry())
        self._known: dict[str, Known] = {}
        self._detectors = DetectorTotals()
        self._lock = threading.Lock()
        self._cpu_s = 0.0

    def render(self, *, openmetrics: bool = False) -> bytes:
        """What GET /metrics answers. Cost: 3 ms of CPU for one run of 10,000 tensors, 15 at MAX_SERIES."""
        with self._lock:
            started = time.thread_time()
            given: dict[str, list[Block]] = {}
            for block in self._all():
                given.setdefault(block.metric, []).append(block)
            text = exposition(METRICS, given, openmetrics)
            self._cpu_s = time.thread_time() - started
        return text

    def _all(self) -> Iterator[Block]:
        live = sorted(
            (run for run in self._monitor.roster.all() if not is_over(run)), key=_age_rank
        )
        shown = live[:MAX_RUNS]
        total = left_out = 0
        for following, run in zip(reversed(range(len(shown))), shown, strict=True):
            made, lacking = self._of_run(run, MAX_SERIES - total - following * RESERVED)
            total += sum(len(block.values) for block in made)
            left_out += lacking
            yield from made
        kept = {run.name for run in shown}
        self._known = {name: known for name, known in self._known.items() if name in kept}
        own: list[Sample] = [
            ("trainvitals_runs", (), len(live)),
            ("trainvitals_runs_left_out", (), len(live) - len(shown)),
            ("trainvitals_monitor_series", (), total),
            ("trainvitals_monitor_series_left_out", (), left_out),
            ("trainvitals_monitor_scrape_cpu_seconds", (), self._cpu_s),
            *self._detectors.samples(self._monitor.roster.all()),
            *service_samples(self._monitor),
            *process_samples(self._process),
        ]
        yield from blocks(SPECS, own)

    def _of_run(self, run: LiveRun, room: int) -> tuple[list[Block], int]:
        known = self._known.get(run.name)
        now = copied(run, known.layout if known else None, self._monitor.mutes)
        if now is None:
            return [], 0
        seats = seated(now, known.seats if known else None)
        self._known[run.name] = Known(now.layout, seats)
        made = list(_blocks(now, seats))
        kept, count = _within(made, min(room, MAX_SERIES_PER_RUN) - _COUNTS)
        left_out = sum(len(block.values) for block in made) - count
        left_out += watched_left_out(now, seats) + now.layout.layers.left_out * _OF_LAYERS
        counts: list[Sample] = [
            ("trainvitals_run_series", (run.name,), count + _COUNTS),
            ("trainvitals_run_series_left_out", (run.name,), left_out),
        ]
        return [*kept, *blocks(SPECS, counts)], left_out


def is_over(run: LiveRun) -> bool:
    """Closed, and long enough for the last scrapes; or not heard of for a day."""
    if run.closed_at is not None:
        return time.monotonic() - run.closed_at > LINGER_S
    return time.time() - run.hearing.last > ABANDONED_S


def _age_rank(run: LiveRun) -> float:
    """Newest first: the store counts runs; one that is not in it yet is newer than all."""
    return -float("inf") if run.id is None else -run.id


def _blocks(now: Copied, seats: Seats) -> Iterator[Block]:
    """Most needed first."""
    yield from blocks(SPECS, run_samples(now))
    yield from blocks(SPECS, finding_samples(now))
    yield from blocks(SPECS, checkpoint_samples(now))
    yield from blocks(SPECS, offender_samples(now))
    yield from watched_blocks(now, seats)
    yield from state_blocks(now)


def _within(made: list[Block], room: int) -> tuple[list[Block], int]:
    """The first blocks that fit, the last of them cut; and how many series that is."""
    kept, count = [], 0
    for block in made:
        cut = block.first(room - count) if count < room else None
        if cut is not None and cut.values:
            kept.append(cut)
            count += len(cut.values)
    return kept, count
