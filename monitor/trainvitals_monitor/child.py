"""
A monitor as a process of its own, started and ended by `check` and `demo`.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from trainvitals_monitor.client import Client, MonitorError
from trainvitals_monitor.config import DEFAULT_PORT
from trainvitals_monitor.interruption import end

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


class BadSettings(MonitorError):
    """It says that what it was started with can't be used."""


class ChildMonitor:
    """
    `trainvitals serve` on loopback, with its store in `folder`; ready when `start` has returned.

    It has a session of its own: Ctrl-C in the terminal reaches us, and we decide when it ends. Should we be killed, it
    ends by itself after `idle_exit_s` without requests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        idle_exit_s: float = 3600.0,
        thresholds: str | None = None,
        reference: str | None = None,
        reference_store: str | None = None,
    ) -> None:
        self._log = folder / "monitor.log"
        self._command = [
            sys.executable, "-m", "trainvitals_monitor.cli", "serve",
            "--port", str(port),
            "--store", str(folder / "store"),
            "--idle-exit-s", str(idle_exit_s),
            *(["--thresholds", thresholds] if thresholds else []),
            *(["--reference", reference] if reference else []),
            *(["--reference-store", reference_store] if reference_store else []),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """What reads from it; only after `start`."""
        if self._client is None:
            raise MonitorError("the monitor was not started")
        return self._client

    @property
    def pid(self) -> int:
        """Its process; only after `start`."""
        if self._process is None:
            raise MonitorError("the monitor was not started")
        return self._process.pid

    def start(self) -> ChildMonitor:
        """Start it and wait until it takes frames; MonitorError with its last words if it does not (see BadSettings)."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = f"the monitor did not start: {self._last_words()}"
                raise BadSettings(said) if self._process.poll() == 2 else MonitorError(said)
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        if self._client is None:
            # It picks the port itself, so that nobody can take it between our looking and its listening.
            said = _ADDRESS.search(self._log.read_text(errors="replace"))
            self._client = Client(said[0]) if said else None
        return self._client is not None and self._client.is_ready()

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait_until_judged(self, timeout_s: float) -> bool:
        """
        Wait until the last word of every run has been judged; False if it did not come in time.

        A trainer that was killed says no last word: what it sent before has been judged by then all the same.
        """
        deadline = time.monotonic() + timeout_s
        while any(run["phase"] != "closed" for run in self.client.runs()):
            if time.monotonic() > deadline or not self.is_running:
                return False
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        """End it, in good order if it lets us."""
        if self._process is not None:
            end(self._process, _STOP_TIMEOUT_S)

    def __enter__(self) -> ChildMonitor:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def usual_port() -> int:
    """The monitor's usual port if nobody has it, else 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return 0
        return DEFAULT_PORT
