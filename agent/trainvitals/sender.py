"""
From the record to the monitor (or to a folder): when a frame is made, and what goes into it.

One daemon thread takes what waits, makes frames of it and delivers them (delivery.py). The trainer's thread only
appends to the record; it waits for the sender in `flush` and `close` alone, and there never longer than it says.

The agent gives two callables, both called on the sender's thread:

* `make_header(seq) -> Header`: who speaks, the phase, `complete_through`, `step_offset`, `contract`, `about`.
  It is called BEFORE the waiting facts are taken, so that `complete_through` never promises facts that are still to be
  added: the agent raises its own mark after it has added a step's last fact. The sender then fills in `seq`, `sent_at`,
  `first_step` (the smallest step that the frame has rows of, else `complete_through`), `tensors`, `events`, `scalars`
  and `dropped` (rows that the record dropped included) by itself: what the agent puts there is overwritten.
* `on_reply(reply)`: the monitor's answer to an accepted frame, parsed JSON:
  `{"accepted": true, "findings": [...], "page": "..."}`. Not called when frames go to a folder.

A third one, `on_poll()`, is called there some times a second.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from trainvitals.delivery import Delivery, Parcel
from trainvitals.errors import BadFrame
from trainvitals.frame import Frame, Header, encode
from trainvitals.paging import Page, pages
from trainvitals.record import Record
from trainvitals.rhythm import Rhythm
from trainvitals.settings import Settings
from trainvitals.speech import LOGGER
from trainvitals.spool import safe_name
from trainvitals.termination import Termination

MakeHeader = Callable[[int], Header]
OnReply = Callable[[dict[str, Any]], None]
OnPoll = Callable[[], None]

_POLL_S = 0.2
_MUCH_BYTES = 8 << 20
"""So much waiting makes a frame before the interval is over."""
_TAKE_OVER_S = 1.0
_LAST_WORDS_S = 3.0


@dataclass(frozen=True)
class _Request:
    """Somebody waits until all that is recorded has arrived, or it is clear that it will not by then."""

    deadline: float
    answer: SimpleQueue[bool]


class Sender:
    """
    Makes frames of what waits in the record and sends them, on a thread of its own.

    Raises BadSetting for a token, certificate or address that cannot be meant. A forked child's copy is silent. After
    `start`, a SIGTERM that nobody else handles gives us a moment to send or spool before it ends the process.
    """

    def __init__(
        self,
        settings: Settings,
        record: Record,
        make_header: MakeHeader,
        on_reply: OnReply,
        on_poll: OnPoll = lambda: None,
        share: float = 1.0,
    ) -> None:
        """`share`: where in each interval frames are due (see rhythm.py)."""
        self._settings = settings
        self._record = record
        self._make_header = make_header
        self._on_poll = on_poll
        self._rhythm = Rhythm(settings.interval_s, share, settings.budget)
        self._delivery = Delivery(settings, on_reply)
        # A SimpleQueue's methods may be called by a signal handler that has interrupted them.
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="trainvitals-sender", daemon=True)
        self._termination = Termination(last_words=self._last_words, in_child=self._delivery.forget)
        self._seq = 0
        self._made_at = 0.0
        self._told_through: int | None = None
        self._told_dropped_rows = 0
        self._has_failed = False
        self.cpu_seconds = 0.0
        """What the thread has taken of a core so far, as of its last turn."""

    def start(self) -> None:
        """Begin to send. Called on the trainer's thread."""
        self._made_at = time.monotonic()
        self._rhythm.begin(self._made_at)
        self._thread.start()
        self._termination.install()

    def flush(self, timeout: float) -> bool:
        """
        Send everything recorded so far; whether all of it has arrived.

        False as soon as the monitor turns out to be away (what was recorded is in the spool then), or at `timeout`.
        """
        if self._delivery.hands_off:
            return False
        request = _Request(time.monotonic() + timeout, SimpleQueue())
        self._requests.put(request)
        while (left := request.deadline - time.monotonic()) > 0 and self._thread.is_alive():
            with contextlib.suppress(Empty):
                return request.answer.get(timeout=min(left, _POLL_S))
        return False

    def close(self, timeout: float) -> bool:
        """
        Send what is left, spool what cannot be sent, and end the thread; whether everything has arrived.

        Takes `timeout` and about a second at most.
        """
        began_at = time.monotonic()
        arrived = self.flush(timeout)
        self._termination.uninstall()
        delivery = self._delivery
        if delivery.hands_off or not delivery.hands.acquire(timeout=_TAKE_OVER_S):
            return arrived
        try:
            delivery.hands_off = True  # wherever the thread is, it changes nothing any more
            if not arrived and self._made_at < began_at:  # the thread is stuck and has not heard us
                self._guarded(self._make_frames)
            self._guarded(delivery.set_aside)
            delivery.close()
        finally:
            delivery.hands.release()
        if self._thread.is_alive():
            self._thread.join(timeout=_TAKE_OVER_S if arrived else 0)
        return arrived

    @property
    def num_accepted(self) -> int:
        """Frames that have arrived."""
        return self._delivery.num_accepted

    @property
    def num_waiting(self) -> int:
        """Frames that have not arrived yet, in memory and on disk."""
        return self._delivery.num_waiting

    @property
    def dropped(self) -> dict[str, int]:
        """What was lost, by what, and stands in no frame yet."""
        return {what: count for what, count in self._delivery.dropped.items() if count}

    @property
    def away(self) -> str:
        """Why nothing can be sent now; empty while the monitor answers."""
        return self._delivery.away

    def touched(self) -> list[str]:
        """What outside of ourselves this has changed."""
        return self._termination.touched()

    def _last_words(self) -> None:
        """At a SIGTERM: the network for a moment, then the disk."""
        self.close(_LAST_WORDS_S)

    # -- the sender's thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._delivery.hands_off:
            requests = self._wait()
            lost_before = self._delivery.num_lost
            self._guarded(lambda: self._turn(requests))  # noqa: B023 - called here and now
            arrived = not self._delivery.num_waiting and self._delivery.num_lost == lost_before
            for each in requests:
                each.answer.put(arrived)
        self._delivery.hang_up()

    def _wait(self) -> list[_Request]:
        """Until there is something to do: at once for requests, else until a frame or another try is due."""
        requests: list[_Request] = []
        while not self._delivery.hands_off:
            poll_s = 0.0 if requests else min(_POLL_S, self._settings.interval_s)
            with contextlib.suppress(Empty):
                requests.append(self._requests.get(timeout=poll_s))
                continue
            self._guarded(self._on_poll)
            self.cpu_seconds = time.thread_time()
            if requests or self._frame_is_due() or self._delivery.is_due:
                break
        return requests

    def _turn(self, requests: list[_Request]) -> None:
        made_before, began = self._seq, time.thread_time()
        with self._delivery.hands:
            if self._delivery.hands_off:
                return
            if requests or self._frame_is_due():
                self._make_frames()
        deadline = max((each.deadline for each in requests), default=None)
        self._delivery.deliver(deadline, interrupted=self._has_other_work)
        if self._seq > made_before:
            self._rhythm.took(time.thread_time() - began)

    def _has_other_work(self) -> bool:
        return self._frame_is_due() or not self._requests.empty()

    def _frame_is_due(self) -> bool:
        now, waiting = time.monotonic(), self._record.waiting_bytes
        much = min(_MUCH_BYTES, self._settings.queue_bytes // 4)
        if waiting and (self._rhythm.has_come(self._made_at, now) or waiting >= much):
            return True
        # A heartbeat says that we are alive now: none is put behind frames that cannot be sent.
        silent_s = now - self._made_at
        return silent_s >= self._settings.heartbeat_s and not self._delivery.num_waiting

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - the worker loop: training goes on, whatever is wrong with us
            self._delivery.lose("frames")
            if not self._has_failed:
                self._has_failed = True
                LOGGER.warning("the sender failed; training goes on", exc_info=True)

    # -- making frames ------------------------------------------------------------------------------------------

    def _make_frames(self) -> None:
        """Everything that waits becomes frames; at least one (a heartbeat)."""
        self._made_at = time.monotonic()
        header = self._make_header(self._seq + 1)
        tables, events, tensors = self._record.take()
        made, num_cut = pages(tables, events, tensors)
        dropped_rows = self._record.dropped_rows
        self._delivery.dropped["rows"] += dropped_rows - self._told_dropped_rows
        self._delivery.dropped["manifest entries"] += num_cut
        self._told_dropped_rows = dropped_rows
        before = (
            self._told_through if self._told_through is not None else header.complete_through - 1
        )
        for page in made:
            # Only the last page completes the steps that the header speaks of.
            through = header.complete_through if page is made[-1] else before
            self._pack(replace(header, complete_through=through), page)
        self._told_through = header.complete_through

    def _pack(self, header: Header, page: Page) -> None:
        header = replace(
            header,
            seq=self._seq + 1,
            sent_at=time.time(),
            # Before the first step -1 is complete, which is no step that a frame could have rows of.
            first_step=page.first_step(default=max(0, header.complete_through)),
            tensors=page.tensors,
            events=page.events,
            scalars=self._record.scalar_names,
            dropped=self.dropped,
        )
        try:
            blob = encode(Frame(header=header, tables=page.tables))
        except (BadFrame, ValueError, TypeError):
            # Facts that fit no frame: a probe's bug, which must not stop the others' facts.
            self._delivery.lose("frames")
            LOGGER.warning("facts that fit no frame were dropped", exc_info=True)
            return
        self._seq += 1
        self._delivery.dropped.clear()
        self._delivery.put(Parcel(blob, name=_file_name(header)))


def _file_name(header: Header) -> str:
    rank = f"rank{header.rank:04d}-{header.seq:08d}.safetensors"
    return f"{safe_name(header.run)}/{safe_name(header.attempt)}/{rank}"
