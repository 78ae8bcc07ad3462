"""
How a command ends before its time, by Ctrl-C, or by SIGTERM, which a CI job that is cancelled sends; and how it ends the
processes that it has started.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130
TERMINATED = 143
"""Exit statuses as a shell has them: 128 and the number of the signal."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """
    Within it SIGTERM raises Terminated in the main thread, so that what a command started ends with it. Without that
    Python dies at once, and a trainer and a monitor go on for nobody. On another thread than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_status(ended: BaseException) -> int:
    """The status of a command that `ended` has ended; click raises its own Abort from what came."""
    return TERMINATED if Terminated in map(type, (ended, ended.__cause__)) else INTERRUPTED


def end(process: subprocess.Popen[Any], timeout_s: float) -> None:
    """Ask a process to end by SIGTERM, and insist after so many seconds; nothing if it has ended."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
