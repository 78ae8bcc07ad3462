"""
A moment to send or spool what waits, when the process is told to end; and silence in forked children.

Touches: the SIGTERM handler, only in the main thread and only where nobody else has set one (a trainer that handles
SIGTERM ends its own way, and the agent is closed at exit); put back on `uninstall`. One `os.register_at_fork` callback
per process, which Python cannot take back; it does nothing when no sender lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Callable
from types import FrameType

_live: weakref.WeakSet[Termination] = weakref.WeakSet()
_listens_to_forks = False


class Termination:
    """
    Calls `last_words` once before SIGTERM ends the process, and `in_child` in forked children.

    The exit status stays the signal's. A main thread that hangs in C code without returning to Python does not get
    to a handler: such a process ends with SIGKILL, as the launcher sends it after its grace period.
    """

    def __init__(self, last_words: Callable[[], None], in_child: Callable[[], None]) -> None:
        self._last_words = last_words
        self._in_child = in_child
        self._installed = False

    def install(self) -> None:
        """Take the signal, if it is free, and listen to forks."""
        _listen_to_forks()
        _live.add(self)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
        self._installed = signal.getsignal(signal.SIGTERM) is _on_sigterm

    def uninstall(self) -> None:
        """Put the signal back when the last sender is gone."""
        _live.discard(self)
        self._installed = False
        if not _live:
            _release_signal()

    def touched(self) -> list[str]:
        """What is in place now."""
        return ["signal: SIGTERM handler"] if self._installed else []

    def speak(self) -> None:
        """Say the last words."""
        self._last_words()

    def enter_child(self) -> None:
        """The process was forked, and this is the child."""
        self._installed = False
        self._in_child()


def _on_sigterm(signum: int, _frame: FrameType | None) -> None:
    try:
        for each in list(_live):
            each.speak()
    finally:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _release_signal() -> None:
    # Only the main thread may; and whoever has set another handler since keeps it.
    with contextlib.suppress(ValueError):
        if signal.getsignal(signal.SIGTERM) is _on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _listen_to_forks() -> None:
    global _listens_to_forks
    if not _listens_to_forks:
        _listens_to_forks = True
        os.register_at_fork(after_in_child=_in_forked_child)


def _in_forked_child() -> None:
    # DataLoader workers and the like: they must die of a SIGTERM at once, and must not send.
    for each in list(_live):
        each.enter_child()
    _live.clear()
    _release_signal()
