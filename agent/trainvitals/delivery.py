"""
What becomes of a frame: sent, refused, or put into the spool until the monitor is back; always the oldest first.

What the answers mean (see link.py): an **accepted** frame is forgotten. A **refused** one (400, 409, 413, ...) is
logged once per status and counted as dropped, and the next one is tried. When the monitor is **away** (also 401, 403
and 404: the frame is fine, the token or the address is not) frames wait in the spool and are tried again, with growing
pauses or when the monitor said so (Retry-After).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainvitals.errors import BadFrame
from trainvitals.frame import decode
from trainvitals.link import ANSWER_TIMEOUT_S, Answer, FolderLink, MonitorLink
from trainvitals.settings import Settings
from trainvitals.speech import LOGGER
from trainvitals.spool import Spool, spool_root

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_ADOPT_EVERY_S = 30.0
_TRIES_OF_A_CRASHING_FRAME = 5


@dataclass(frozen=True)
class Parcel:
    """
    A frame on its way, and its name should it go to a folder. A nameless one comes from the spool, where `num_behind`
    more of the same process wait.
    """

    blob: bytes
    name: str = ""
    num_behind: int = 0


class Delivery:
    """
    Gets frames to where they belong, in order; loses none silently.

    Raises BadSetting for a token, certificate or address that cannot be meant. `hands` is held while the outbox, the
    spool and the counts change, and never during a network call: whoever has set `hands_off` under it may take over
    from a thread that is stuck in one.
    """

    def __init__(self, settings: Settings, on_reply: Callable[[dict[str, Any]], None]) -> None:
        self._settings = settings
        self._on_reply = on_reply
        self._link = FolderLink(settings) if settings.to_folder else MonitorLink(settings)
        self._spool: Spool | None = None
        if not settings.to_folder:
            self._spool = Spool(spool_root(settings.spool), settings.monitor, settings.spool_bytes)
        self._outbox: deque[Parcel] = deque()
        self._retry_at = self._adopt_at = 0.0
        self._pause_s = 0.0
        self._crashes = 0
        self._said: set[str] = set()
        self.hands = threading.Lock()
        self.hands_off = False
        self.dropped: Counter[str] = Counter()
        """What was lost and stands in no frame yet: "frames", "spool" (frames), "rows", "manifest entries"."""
        self.num_accepted = 0
        self.num_lost = 0
        self.away = ""
        """Why nothing can be sent now; empty while the monitor answers."""

    @property
    def num_waiting(self) -> int:
        """Frames that have not arrived yet, in memory and on disk."""
        return len(self._outbox) + self._num_spooled

    @property
    def is_due(self) -> bool:
        """Whether there is something to try now: frames that wait, or a look for those of processes that are gone."""
        now = time.monotonic()
        if self._spool is not None and not self.away and now >= self._adopt_at:
            return True
        return self.num_waiting > 0 and now >= self._retry_at

    def put(self, parcel: Parcel) -> None:
        """A new frame; it goes behind those that wait."""
        self._outbox.append(parcel)
        if self._num_spooled or self._outbox_bytes() > self._settings.queue_bytes:
            self.set_aside()

    def deliver(self, deadline: float | None, interrupted: Callable[[], bool]) -> None:
        """
        Send until nothing waits, the monitor is away, the deadline has come, or other work is due.

        With a deadline somebody waits: then pauses are cut short, for one try.
        """
        self._adopt()
        if deadline is None and time.monotonic() < self._retry_at:
            with self.hands:
                self.set_aside()
            return
        while (parcel := self._oldest()) is not None:
            left = ANSWER_TIMEOUT_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            from_disk = None if parcel.name else parcel.num_behind
            answer = self._link.send(
                parcel.blob, parcel.name, min(left, ANSWER_TIMEOUT_S), from_disk
            )
            with self.hands:
                if self.hands_off:
                    return
                goes_on = self._settle(parcel, answer)
            if answer.kind == "accepted" and answer.reply:
                self._on_reply(answer.reply)
            if not goes_on and not self._waits_with(answer, deadline):
                return
            if deadline is None and interrupted():
                return

    def set_aside(self) -> None:
        """
        Move what is in memory to the disk, behind what is there. Frames that go to a folder stay in memory, up to
        `queue_bytes`.
        """
        while self._outbox and self._spool is not None:
            try:
                for blob in self._spool.put(self._outbox[0].blob):
                    self.lose("spool", blob)
            except OSError as error:
                self._say(
                    "disk", f"frames cannot be kept on disk ({error}); the oldest are dropped"
                )
                break
            self._outbox.popleft()
        while len(self._outbox) > 1 and self._outbox_bytes() > self._settings.queue_bytes:
            self.lose("frames", self._outbox.popleft().blob)

    def close(self) -> None:
        """Leave what waits on disk for a later process."""
        if self._spool is not None:
            self._spool.close()

    def forget(self) -> None:
        """In a forked child: frames, locks and connection are the parent's."""
        self.hands_off = True
        self._outbox.clear()
        if self._spool is not None:
            self._spool.forget()

    def hang_up(self) -> None:
        """End the connection."""
        self._link.close()

    @property
    def _num_spooled(self) -> int:
        return len(self._spool) if self._spool is not None else 0

    def _outbox_bytes(self) -> int:
        return sum(len(parcel.blob) for parcel in self._outbox)

    def _oldest(self) -> Parcel | None:
        with self.hands:
            if self.hands_off:
                return None
            blob = self._spool.oldest() if self._spool is not None else None
            if self._spool is not None and blob is not None:
                return Parcel(blob, num_behind=self._spool.num_behind)
            return self._outbox[0] if self._outbox else None

    def _adopt(self) -> None:
        now = time.monotonic()
        if self._spool is None or now < self._adopt_at:
            return
        self._adopt_at = now + _ADOPT_EVERY_S
        with self.hands:
            try:
                found = 0 if self.hands_off else self._spool.adopt()
            except (
                OSError
            ):  # the folder went away, or is not ours to read: there is nothing to adopt
                return
        if found:
            LOGGER.info("sending %d frames that an earlier process left", found)

    def _settle(self, parcel: Parcel, answer: Answer) -> bool:
        """What the answer means for the frame; whether to go on with the next one."""
        if answer.kind == "away" and not self._is_poison(answer):
            self._go_away(answer)
            return False
        if answer.kind == "accepted":
            self.num_accepted += 1
        else:
            self.lose("frames", parcel.blob)
            self._say(f"refused {answer.status}", _refusal(answer))
        self._come_back()
        if parcel.name:
            self._outbox.popleft()
        elif self._spool is not None:
            self._spool.sent()
        return True

    def _is_poison(self, answer: Answer) -> bool:
        """A frame on which the monitor fails again and again (500) must not hold up the others for ever."""
        self._crashes = self._crashes + 1 if answer.status == 500 else 0
        return self._crashes >= _TRIES_OF_A_CRASHING_FRAME

    def _go_away(self, answer: Answer) -> None:
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        # Ranks that lost the monitor together should not all come back together.
        pause = self._pause_s * random.uniform(0.5, 1.0) if answer.wait_s is None else answer.wait_s
        self._retry_at = time.monotonic() + pause
        if not self.away:
            where = self._spool.folder if self._spool is not None else "memory"
            target = self._settings.monitor
            LOGGER.warning("%s: %s; frames wait in %s", target, answer.text, where)
        self.away = answer.text
        self.set_aside()

    def _come_back(self) -> None:
        self._crashes = 0
        self._pause_s = self._retry_at = 0.0
        if self.away:
            self.away = ""
            LOGGER.info("%s takes frames again", self._settings.monitor)

    def _waits_with(self, answer: Answer, deadline: float | None) -> bool:
        """Somebody waits for us and the monitor asked for a pause that fits in: take it, then try again."""
        if (
            deadline is None
            or answer.wait_s is None
            or time.monotonic() + answer.wait_s >= deadline
        ):
            return False
        time.sleep(max(answer.wait_s, 0.05))
        return True

    def lose(self, how: str, blob: bytes = b"") -> None:
        """Count a frame that is dropped, and what it would have said of others that were."""
        self.dropped[how] += 1
        self.num_lost += 1
        try:
            told = decode(blob)[0].get("dropped", {})
        except BadFrame:
            return
        self.dropped.update({what: int(count) for what, count in told.items()})

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            LOGGER.warning("%s", text)


def _refusal(answer: Answer) -> str:
    if answer.status == 409:
        return (
            f"a frame was refused: another process sends under the same run and attempt ({answer.text}); "
            "give this job another run= or attempt= (TRAINVITALS_RUN, TRAINVITALS_ATTEMPT)"
        )
    return f"a frame was refused and dropped: {answer.text}"


__all__ = ["Delivery", "Parcel"]
