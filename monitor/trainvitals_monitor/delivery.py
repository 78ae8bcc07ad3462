"""
One place that notifications go to: a thread of its own, a bounded queue, and patience.

The notification library knows the services and their addresses; this file sees to it that what it is handed is
delivered in the end, holds nothing up, and never shows an address: those contain secrets.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable

from trainvitals_monitor.waking import Message

_LOG = logging.getLogger("trainvitals.monitor")
QUEUE = 256
"""Messages that wait; beyond that the oldest are dropped, and counted."""
KEPT_S = 24 * 3600.0
"""What could not be delivered for so long is dropped, and counted: it is news no more."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
OUTCOMES = ("sent", "failed", "dropped")
"""What can become of a delivery; one that failed is tried again."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,31}(?=://)")
_CHATTY = ("apprise", "oauthlib", "requests_oauthlib", "urllib3")
"""Loggers that write whole addresses at their lower levels, should somebody turn them up."""


class Outlet:
    """
    Where one URL leads. `put` may be called from any thread and never waits.

    Raises ValueError (one line, without the URL) when the library is missing or does not understand the URL. `counted`
    is added to from this outlet's thread and from `put`.
    """

    def __init__(self, url: str, number: int, counted: Counter[str]) -> None:
        scheme = _SCHEME.match(url.strip())
        # The scheme names the service; all that comes after it may be secret.
        self.name = f"notify URL {number} ({scheme[0] + '://' if scheme else 'no scheme'})"
        self._send = _sender(url.strip(), self.name)
        self._counted = counted
        self._waiting: deque[tuple[float, Message]] = deque()
        self._wake = threading.Condition()
        self._ending = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="trainvitals-notify", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message."""
        with self._wake:
            while len(self._waiting) >= QUEUE:
                self._waiting.popleft()
                self._counted["dropped"] += 1
            self._waiting.append((time.monotonic(), message))
            self._wake.notify()

    def waiting(self) -> list[Message]:
        """What was not delivered yet."""
        with self._wake:
            return [message for _, message in self._waiting]

    def close(self, patience_s: float) -> None:
        """Deliver what waits, for so long at most."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _work(self) -> None:
        delay = 0.0
        while True:
            with self._wake:
                while not self._waiting and not self._ending:
                    self._wake.wait()
                if delay and not self._ending:
                    self._wake.wait_for(lambda: self._ending, delay)
                if not self._waiting or (self._ending and delay):
                    return
                put_at, message = self._waiting[0]
            if self._deliver(message):
                delay = 0.0
                self._take_off(put_at, message, again=False)
            else:
                delay = min(max(FIRST_RETRY_S, 2 * delay), LONGEST_RETRY_S)
                # To the end of the queue: what a service refuses for its content must not hold up the others.
                self._take_off(put_at, message, again=time.monotonic() - put_at < KEPT_S)

    def _take_off(self, put_at: float, message: Message, *, again: bool) -> None:
        with self._wake:
            if not self._waiting or self._waiting[0] != (put_at, message):
                return  # the queue was full meanwhile, and this one was dropped
            self._waiting.popleft()
            if again:
                self._waiting.append((put_at, message))

    def _deliver(self, message: Message) -> bool:
        why = self._send(message)
        if not why:
            self._counted["sent"] += 1
            if self._failing:
                _LOG.warning("%s takes notifications again", self.name)
            self._failing = False
            return True
        self._counted["failed"] += 1
        if not self._failing:
            _LOG.error("%s: not delivered (%s); it is tried again until it is", self.name, why)
        self._failing = True
        return False


def _sender(url: str, name: str) -> Callable[[Message], str]:
    """What delivers a message to the URL, and returns why it could not, or ""; ValueError without the URL in it."""
    try:
        with warnings.catch_warnings():
            # apprise looks for modules that Python is about to drop, and does without them.
            warnings.simplefilter("ignore", DeprecationWarning)
            import apprise

            _hush()
            # Nothing is written to disk, no picture is linked from elsewhere, and no address is logged.
            asset = apprise.AppriseAsset(
                app_id="trainvitals",
                app_desc="trainvitals monitor",
                app_url="",
                image_url_mask="",
                image_url_logo="",
                secure_logging=True,
                storage_mode=apprise.PersistentStoreMode.MEMORY,
            )
            service = apprise.Apprise(asset=asset)
            understood = service.add(url) and len(service) == 1
    except ImportError as error:
        raise ValueError(
            "notifications need a library: pip install 'trainvitals[notify]'"
        ) from error
    if not understood:
        raise ValueError(
            f"{name} is no address that apprise understands: see https://appriseit.com/services/"
        )
    kinds = {
        "critical": apprise.NotifyType.FAILURE,
        "vanished": apprise.NotifyType.FAILURE,
        "warning": apprise.NotifyType.WARNING,
        "over": apprise.NotifyType.SUCCESS,
    }

    def send(message: Message) -> str:
        try:
            if service.notify(
                title=message.title,
                body=message.body,
                notify_type=kinds[message.kind],
                body_format=apprise.NotifyFormat.TEXT,
            ):
                return ""
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is a delivery that failed
            return type(error).__name__
        return "it was refused, or nothing answers there"

    return send


def _hush() -> None:
    """Keep the library's log from going anywhere: host names and paths in it can be secrets."""
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apprise").propagate = False
