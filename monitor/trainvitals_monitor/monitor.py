"""
The monitor itself: it owns the runs, the queue in front of them and the one thread that changes them.

Frames wait in a bounded queue. The worker takes all that wait, lets each run judge its frames, writes frames, findings,
marks and chunks in ONE transaction, and only then answers the senders: what was answered 2xx is on disk, with
everything that follows from it. If the transaction fails the senders hear 503, and the runs are read back from the
store before they are used again, so that memory is never ahead of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from trainvitals_monitor.config import Config
from trainvitals_monitor.counters import Counters
from trainvitals_monitor.ingest import Arrival
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.store import Store

_LOG = logging.getLogger("trainvitals.monitor")
_GROUP_FRAMES = 64
_GROUP_BYTES = 64 << 20
_RETRY_S = 2
_RELOADED = 8
"""Runs that are read back at a start; others are when they are asked for."""


@dataclass
class _Waiting:
    """A frame in the queue, and who waits for its fate."""

    arrival: Arrival
    answer: Future[bytes]


_Taken = tuple[_Waiting, LiveRun, bool]
"""A frame, its run, and whether it is new."""


class Monitor:
    """
    Open from its construction to `close()`; judging from `start()` on. All methods may be called from any thread.

    Raises ValueError (one line) when the store cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.version = version("trainvitals")
        self.counters = Counters()
        self.store = Store(config.store)
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._wake = threading.Condition()
        self._runs: OrderedDict[str, LiveRun] = OrderedDict()
        self._runs_lock = threading.RLock()
        self._loaded = threading.Event()
        self._ending = False
        self._failure = ""
        self._worker = threading.Thread(target=self._work, name="trainvitals-writer", daemon=True)

    def start(self) -> None:
        """Begin to judge; runs are read back first."""
        self._worker.start()

    def close(self) -> None:
        """Take no more, finish what waits, and let go of the store."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._worker.is_alive():
            self._worker.join()
        for waiting in self._queue:
            waiting.answer.set_exception(_unavailable("the monitor is ending"))
        self._settle(self.live_runs())
        self.store.close()

    def trouble(self) -> str:
        """Why frames are not taken now; "" if they are."""
        if self._ending:
            return "the monitor is ending"
        if not self._loaded.is_set():
            return "starting: stored runs are being read"
        if not self._worker.is_alive():
            return "the writer has died; see the log"
        return self._failure

    def submit(self, arrival: Arrival) -> Future[bytes]:
        """Queue a frame; the future has the answer's JSON once the frame is in the store. Refusal if it can't wait."""
        limits = self.config.limits
        with self._wake:
            if self._ending:
                raise _unavailable("the monitor is ending")
            if not self._worker.is_alive():
                raise _unavailable("the writer has died; see the monitor's log")
            full = len(self._queue) >= limits.queue_frames
            if full or self._queue_bytes + arrival.size > max(limits.queue_bytes, arrival.size):
                raise Refusal(
                    "busy", f"{len(self._queue)} frames wait already; send this one again later",
                    retry_after_s=_RETRY_S,
                )  # fmt: skip
            waiting = _Waiting(arrival, Future())
            self._queue.append(waiting)
            self._queue_bytes += arrival.size
            self._wake.notify()
        return waiting.answer

    def count_refused(self, reason: str) -> None:
        """A frame was refused."""
        self.counters.refused[reason] += 1

    def queued(self) -> tuple[int, int]:
        """Frames and bytes that wait."""
        return len(self._queue), self._queue_bytes

    def live_runs(self) -> list[LiveRun]:
        """The runs in memory, last used last."""
        with self._runs_lock:
            return list(self._runs.values())

    def run(self, name: str) -> LiveRun:
        """The run, read back from the store if need be; Refusal if there is none."""
        with self._runs_lock:
            live = self._known(name)
        if live is None:
            raise Refusal(
                "not-found", f"no run {name!r}; GET /api/v1/runs lists those that there are"
            )
        return live

    def page(self, run: str) -> str:
        """The address of the run's page."""
        base = self.config.public_url or f"http://{self.config.host}:{self.config.port}"
        return f"{base.rstrip('/')}/runs/{quote(run)}"

    # -- the worker's thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._read_back()
        self._loaded.set()
        while True:
            group = self._next_group()
            if not group:
                return
            try:
                self._process(group)
            except Exception:  # noqa: BLE001 - logged
                # The thread must live: whatever this was, the next group may be fine.
                _LOG.exception("a group of %d frames could not be processed", len(group))
                self._fail(group, "worker", "a fault of the monitor's own; see its log")

    def _next_group(self) -> list[_Waiting]:
        """What waits, as much as one transaction should hold; empty when the monitor ends."""
        group: list[_Waiting] = []
        size = 0
        with self._wake:
            while not self._queue and not self._ending:
                self._wake.wait()
            while self._queue and len(group) < _GROUP_FRAMES and size < _GROUP_BYTES:
                group.append(self._queue.popleft())
                size += group[-1].arrival.size
            self._queue_bytes -= size
        return group

    def _process(self, group: list[_Waiting]) -> None:
        taken: list[_Taken] = []
        with self.counters.timed("judge"):
            for waiting in group:
                self._take(waiting, taken)
        try:
            with self.counters.timed("store"):
                self._commit([live for _, live, is_new in taken if is_new])
        except (SQLAlchemyError, OSError) as error:
            _LOG.error("the store could not be written: %s", error)
            reason = f"the store could not be written: {getattr(error, 'orig', None) or error}"
            self._failure = reason
            self._fail([waiting for waiting, _, _ in taken], "store", reason)
            return
        self._failure = ""
        for waiting, live, is_new in taken:
            self._count(waiting, is_new)
            waiting.answer.set_result(live.answer(duplicate=not is_new))
        self._evict()

    def _take(self, waiting: _Waiting, taken: list[_Taken]) -> None:
        try:
            live = self._run_for(waiting.arrival)
            taken.append((waiting, live, live.take(waiting.arrival)))
        except Refusal as refusal:
            self._drop_if_empty(waiting.arrival.header.run)
            waiting.answer.set_exception(refusal)

    def _commit(self, touched: list[LiveRun]) -> None:
        runs = list(dict.fromkeys(touched))
        if not runs:
            return
        with self.store.writing() as writing:
            for live in runs:
                live.save(writing)
        for live in runs:
            live.saved()
        self.counters.commits += 1

    def _count(self, waiting: _Waiting, is_new: bool) -> None:
        if is_new:
            self.counters.accepted += 1
            self.counters.accepted_bytes += waiting.arrival.size
        else:
            self.counters.duplicates += 1

    def _fail(self, group: list[_Waiting], stage: str, reason: str) -> None:
        """Nothing of this group was stored: its runs are forgotten, and read back when they are needed."""
        self.counters.errors[stage] += 1
        with self._runs_lock:
            for waiting in group:
                self._runs.pop(waiting.arrival.header.run, None)
        for waiting in group:
            if not waiting.answer.done():
                waiting.answer.set_exception(_unavailable(reason))

    def _run_for(self, arrival: Arrival) -> LiveRun:
        name = arrival.header.run
        with self._runs_lock:
            live = self._known(name)
            if live is None:
                self._check_room(name)
                live = self._runs[name] = LiveRun(
                    name, page=self.page(name), counters=self.counters
                )
            return live

    def _drop_if_empty(self, name: str) -> None:
        """A refused frame leaves no run behind."""
        with self._runs_lock:
            live = self._runs.get(name)
            if live is not None and live.is_empty:
                del self._runs[name]

    def _check_room(self, name: str) -> None:
        limit = self.config.limits.runs
        if self.store.count_runs() >= limit:
            raise Refusal("over-limit", f"{limit} runs are stored; {name!r} would be one more")

    def _known(self, name: str) -> LiveRun | None:
        live = self._runs.get(name)
        if live is None:
            live = LiveRun.from_store(
                name, self.store, page=self.page(name), counters=self.counters
            )
            if live is not None:
                self._runs[name] = live
        if live is not None:
            self._runs.move_to_end(name)
        return live

    def _read_back(self) -> None:
        for row in reversed(self.store.runs()[:_RELOADED]):
            started = time.perf_counter()
            try:
                with self._runs_lock:
                    self._known(row["name"])
            except Exception:  # noqa: BLE001 - logged
                # One run that can't be read must not keep the others from being watched.
                _LOG.exception("run %r could not be read back", row["name"])
                self.counters.errors["read-back"] += 1
            _LOG.info("run %r read back in %.2f s", row["name"], time.perf_counter() - started)

    def _evict(self) -> None:
        with self._runs_lock:
            while len(self._runs) > self.config.limits.live_runs:
                _, live = self._runs.popitem(last=False)
                self._settle([live])

    def _settle(self, runs: list[LiveRun]) -> None:
        """Runs are about to leave memory: what readers are told of them without reading them back."""
        try:
            with self.store.writing() as writing:
                for live in runs:
                    live.save_summary(writing)
        except (SQLAlchemyError, OSError) as error:
            _LOG.warning("the list of runs may be behind: %s", error)


def _unavailable(reason: str) -> Refusal:
    return Refusal("unavailable", reason, retry_after_s=_RETRY_S)
