"""
A monitor to measure: `trainvitals serve` as a process of its own, on a free port of loopback and a store that is thrown away.

Its CPU time and memory are read from /proc, so that nothing of who sends or asks counts.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

from trainvitals_monitor.interruption import end

_END_S = 60


class Server:
    """
    Serves from `with` to its end, which removes the store.

    `fill` is called with the store's folder before it starts. `core`: the only processor that it may run on. `profile`: a
    file for cProfile's figures of its main thread.
    """

    def __init__(
        self,
        *,
        fill: Callable[[str], None] | None = None,
        core: int | None = None,
        profile: str | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="trainvitals-benchmark-")
        if fill is not None:
            fill(self._folder.name)
        tool = ["-m", "cProfile", "-o", profile] if profile else []
        command = [sys.executable, *tool, "-m", "trainvitals_monitor.cli", "serve", "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--store", self._folder.name],
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the benchmark, which ends the server in good order.
            start_new_session=True,
        )
        if core is not None:
            os.sched_setaffinity(self._process.pid, {core})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.address = next(word for word in line.split() if word.startswith("http://"))

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._process, _END_S)
        self._folder.cleanup()

    def cpu_seconds(self) -> float:
        """CPU time so far, all threads, user and system."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> tuple[int, int]:
        """Resident memory now, and at its peak."""
        lines = dict(line.split(":", 1) for line in self._proc("status").splitlines())
        return _kilobytes(lines["VmRSS"]), _kilobytes(lines["VmHWM"])

    def store_bytes(self) -> int:
        """The store on disk, its log included."""
        return sum(file.stat().st_size for file in Path(self._folder.name).iterdir())

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self._process.pid}/{name}").read_text()


def _kilobytes(text: str) -> int:
    return 1024 * int(text.split()[0])


class Connection:
    """A keep-alive connection to a monitor, as agents and readers have it."""

    def __init__(self, address: str) -> None:
        self._http = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
        self._http.connect()
        # As the agent's sender does: without it every frame waits 40 ms for an acknowledgement.
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, blob: bytes) -> None:
        """One frame, until it is safe in the store."""
        self._ask("POST", "/api/v1/frames", blob)

    def get(self, path: str, **headers: str) -> bytes:
        """What the monitor answers; `headers`: with underscores for dashes."""
        return self._ask("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    def get_json(self, path: str) -> Any:
        """The same, read as JSON."""
        return json.loads(self.get(path))

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        headers = headers or ({"Content-Type": "application/octet-stream"} if body else {})
        self._http.request(method, path, body, dict(headers))
        response = self._http.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer


def run_path(run: str, page: str = "") -> str:
    """The address of a run in the API, or of a page below it."""
    return f"/api/v1/runs/{quote(run)}{'/' if page else ''}{page}"
