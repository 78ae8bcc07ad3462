"""
The demo's trainer as a process: started with the agent's settings in its environment, read line by line.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from trainvitals_monitor.demo import Fault
from trainvitals_monitor.interruption import end

_STOP_TIMEOUT_S = 10.0
_KEPT_LINES = 60


class Trainer:
    """
    One attempt. `lines` gives what it prints, and of its stderr what the agent says there; the rest of stderr is kept
    for the case that it fails. A context manager, which ends the process.
    """

    def __init__(self, fault: Fault, *, run: str, monitor: str, folder: Path, steps: int) -> None:
        self._command = [
            sys.executable, "-m", f"trainvitals_monitor.demo.{fault.trainer}",
            "--folder", str(folder), "--fault", fault.name, "--steps", str(steps),
        ]  # fmt: skip
        self._environment = {
            # Threads that wait by spinning make a busy machine ten times slower; where it is said otherwise, that holds.
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "TRAINVITALS_RUN": run,
            "TRAINVITALS_MONITOR": monitor,
            "TRAINVITALS_BUDGET": "none",
            "TRAINVITALS_INTERVAL_S": "0.2",
            # torch's hints about how it was called are no part of the show.
            "PYTHONWARNINGS": "ignore",
        }
        self._kept: deque[str] = deque(maxlen=_KEPT_LINES)
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Trainer:
        # A session of its own: Ctrl-C is for us, and we end the trainer without its traceback.
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, ""), daemon=True),
            threading.Thread(
                target=self._read, args=(self._process.stderr, "trainvitals: "), daemon=True
            ),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end(self._process, _STOP_TIMEOUT_S)
        for thread in self._threads:
            thread.join(_STOP_TIMEOUT_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def lines(self) -> Iterator[str]:
        """What is worth showing, as it comes, until the trainer ends."""
        ended = 0
        while ended < len(self._threads):
            line = self._heard.get()
            if line is None:
                ended += 1
            else:
                yield line
        self._process.wait()

    @property
    def status(self) -> int:
        """The exit status, once it has ended."""
        return self._process.wait()

    @property
    def said(self) -> str:
        """The end of its stderr."""
        return "\n".join(self._kept)

    @property
    def last_words(self) -> str:
        """The last line of its stderr that is not ours: of a traceback, the error."""
        return next((line for line in reversed(self._kept) if line.strip()), "it said nothing")

    def _read(self, stream: Iterable[str], shown_prefix: str) -> None:
        for line in stream:
            text = line.rstrip("\n")
            if text.startswith(shown_prefix):
                self._heard.put(text)
            else:
                self._kept.append(text)
        self._heard.put(None)
