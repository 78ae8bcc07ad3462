"""
The monitor itself: the store, the runs, the queue in front of them and the one thread that changes them.

Frames wait in a bounded queue, as bytes. The worker takes all that wait, reads them, lets each run judge its own,
writes frames, findings and chunks in ONE transaction, and only then answers the senders: what was answered 2xx is on
disk, with everything that follows from it. If the transaction fails the senders hear 503, and the runs are read back
from the store before they are used again, so that memory is never ahead of it.

Decoding, judging and storing share a thread on purpose: a frame's columns stay in one core's cache, which was measured
to save a third of the CPU time against decoding on the server's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from trainvitals_monitor.config import Config
from trainvitals_monitor.counters import Counters
from trainvitals_monitor.courtesy import Courtesy
from trainvitals_monitor.ingest import Arrival, read_frame
from trainvitals_monitor.live import LiveRun, Sender
from trainvitals_monitor.mutes import Mutes
from trainvitals_monitor.notify import Notifier
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.roster import Roster
from trainvitals_monitor.store import Store

_LOG = logging.getLogger("trainvitals.monitor")
_GROUP_FRAMES = 64
_GROUP_BYTES = 64 << 20
_RETRY_S = 2


@dataclass
class _Waiting:
    """A frame in the queue, and who waits for its fate; `num_behind` as LiveRun.waited has it."""

    blob: bytes
    num_behind: int | None
    answer: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Taken:
    """A frame that was read and judged, and is to be stored unless it came before."""

    waiting: _Waiting
    run: LiveRun
    sender: Sender
    is_new: bool


class Monitor:
    """
    Open from its construction to `close()`; judging from `start()` on. All methods may be called from any thread.

    Raises ValueError (one line) when the store or an address of `config.notify` cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.version = version("trainvitals")
        self.counters = Counters()
        self.courtesy = Courtesy()
        self.store = Store(config.store)
        try:
            self.roster = Roster(config, self.store, self.counters)
            self.mutes = Mutes(self.store.path.with_name(f"{self.store.path.name}-mutes"))
            self.notifier = self._notifier()
        except BaseException:
            self.store.close()
            raise
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._wake = threading.Condition()
        self._loaded = threading.Event()
        self._ending = False
        self._failure = ""
        self._worker = threading.Thread(target=self._work, name="trainvitals-writer", daemon=True)

    def start(self) -> None:
        """Begin to judge; runs are read back first."""
        self._worker.start()
        if self.notifier is not None:
            self.notifier.start()

    def close(self) -> None:
        """Take no more, finish what waits, and let go of the store."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._worker.is_alive():
            self._worker.join()
        if self.notifier is not None:
            self.notifier.close()
        for waiting in self._queue:
            waiting.answer.set_exception(_unavailable("the monitor is ending"))
        self.roster.settle(self.roster.all())
        self.store.close()

    def _notifier(self) -> Notifier | None:
        if not self.config.notify:
            return None
        return Notifier(
            self.config.notify,
            self.roster.all,
            counted=self.counters.notifications,
            file=self.store.path.with_name(f"{self.store.path.name}-told"),
            tell_over=self.config.notify_over,
            heard=self.mutes.heard,
            silenced=self.mutes.silences,
        )

    def trouble(self) -> str:
        """Why frames are not taken now; "" if they are."""
        if self._ending:
            return "the monitor is ending"
        if not self._loaded.is_set():
            return "starting: stored runs are being read"
        if not self._worker.is_alive():
            return "the writer has died; see the log"
        return self._failure

    def submit(self, blob: bytes, num_behind: int | None = None) -> Future[bytes]:
        """
        Queue a frame; the future has the answer's JSON once the frame is in the store, or the Refusal.

        `num_behind`: of a frame that waited on a trainer's disk, how many wait there behind it.
        Raises Refusal at once if the frame cannot wait.
        """
        limits = self.config.limits
        with self._wake:
            if self._ending:
                raise _unavailable("the monitor is ending")
            if not self._worker.is_alive():
                raise _unavailable("the writer has died; see the monitor's log")
            full = len(self._queue) >= limits.queue_frames
            if full or self._queue_bytes + len(blob) > max(limits.queue_bytes, len(blob)):
                detail = f"{len(self._queue)} frames wait already; send this one again later"
                raise Refusal("busy", detail, retry_after_s=_RETRY_S)
            waiting = _Waiting(blob, num_behind)
            self._queue.append(waiting)
            self._queue_bytes += len(blob)
            self._wake.notify()
        return waiting.answer

    def count_refused(self, reason: str) -> None:
        """A frame was refused."""
        self.counters.refused[reason] += 1

    def queued(self) -> tuple[int, int]:
        """Frames and bytes that wait."""
        return len(self._queue), self._queue_bytes

    # -- the worker's thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        self.roster.read_back()
        self._loaded.set()
        while True:
            group = self._next_group()
            if group is None:
                return
            taken: list[_Taken] = []
            try:
                self._process(group, taken)
            except Exception:  # noqa: BLE001 - logged
                # The thread must live: whatever this was, the next group may be fine.
                _LOG.exception("a group of %d frames could not be processed", len(group))
                self._fail(group, taken, "worker", "a fault of the monitor's own; see its log")

    def _next_group(self) -> list[_Waiting] | None:
        """What waits, as much as one transaction should hold; None when the monitor ends."""
        group: list[_Waiting] = []
        size = 0
        with self._wake:
            while not self._queue and not self._ending:
                self._wake.wait()
            if not self._queue:
                return None
            while self._queue and len(group) < _GROUP_FRAMES and size < _GROUP_BYTES:
                group.append(self._queue.popleft())
                size += len(group[-1].blob)
            self._queue_bytes -= size
        # From here on nobody can cancel them any more; who hung up while waiting is let go.
        return [waiting for waiting in group if waiting.answer.set_running_or_notify_cancel()]

    def _process(self, group: list[_Waiting], taken: list[_Taken]) -> None:
        for waiting in group:
            self._take(waiting, taken)
        try:
            with self._stage("store"):
                self._commit([one.run for one in taken if one.is_new])
        except (SQLAlchemyError, OSError) as error:
            _LOG.error("the store could not be written: %s", error)
            self._failure = (
                f"the store could not be written: {getattr(error, 'orig', None) or error}"
            )
            self._fail(group, taken, "store", self._failure)
            return
        self._failure = ""
        now = time.monotonic()
        self.counters.lag_s = max((now - one.waiting.since for one in taken), default=0.0)
        for one in taken:
            self._count(one)
            one.waiting.answer.set_result(one.run.answer(duplicate=not one.is_new))
        self.roster.evict()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """A part of a frame's way, timed; whoever asks goes first."""
        # Frames that have to wait for each other already don't wait for readers, too.
        if len(self._queue) < _GROUP_FRAMES:
            with self.counters.timed("pause"):
                self.courtesy.pause()
        with self.counters.timed(name):
            yield

    def _take(self, waiting: _Waiting, taken: list[_Taken]) -> None:
        try:
            with self._stage("decode"):
                arrival = read_frame(waiting.blob, self.config.limits)
            with self._stage("judge"):
                run, is_new = self._judge(arrival)
        except Refusal as refusal:
            waiting.answer.set_exception(refusal)
            return
        sender = (arrival.header.attempt, arrival.header.rank)
        taken.append(_Taken(waiting, run, sender, is_new))

    def _judge(self, arrival: Arrival) -> tuple[LiveRun, bool]:
        name = arrival.header.run
        live = self.roster.get_or_make(name)
        try:
            return live, live.take(arrival)
        except Refusal:
            self.roster.drop_if_empty(name)
            raise

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

    def _count(self, one: _Taken) -> None:
        one.run.waited(one.sender, one.waiting.num_behind)
        if one.is_new:
            self.counters.accepted += 1
            self.counters.accepted_bytes += len(one.waiting.blob)
            one.run.frames += 1
            one.run.frame_bytes += len(one.waiting.blob)
        else:
            self.counters.duplicates += 1

    def _fail(self, group: list[_Waiting], taken: list[_Taken], stage: str, reason: str) -> None:
        """Nothing of this group was stored: its runs are forgotten, and read back when they are needed."""
        self.counters.errors[stage] += 1
        self.roster.forget(one.run.name for one in taken)
        for waiting in group:
            if not waiting.answer.done():
                waiting.answer.set_exception(_unavailable(reason))


def _unavailable(reason: str) -> Refusal:
    return Refusal("unavailable", reason, retry_after_s=_RETRY_S)
