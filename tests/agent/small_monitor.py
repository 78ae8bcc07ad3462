"""
A real HTTP server on loopback that takes frames as the monitor does, and can be told to refuse, or go away.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

from trainvitals.frame import Header, decode
from trainvitals.record import Record
from trainvitals.settings import Settings, resolve


class SmallMonitor:
    """Keeps every frame it accepts. `answer` is (status, headers, body) for frames that it does not."""

    def __init__(self, port: int = 0) -> None:
        self.blobs: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answer: tuple[int, dict[str, str], dict[str, Any]] | None = None
        self.reply: dict[str, Any] = {"accepted": True, "findings": [], "page": "http://page"}
        self.delay_s = 0.0
        self.num_connections = 0
        self._open: list[socket.socket] = []
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                monitor.num_connections += 1
                monitor._open.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                blob = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(monitor.delay_s)
                status, headers, body = monitor.answer or (200, {}, monitor.reply)
                if self.path != "/api/v1/frames":
                    status, headers, body = 404, {}, {"detail": "no such page"}
                if status == 200:
                    monitor.blobs.append(blob)
                    monitor.headers.append(dict(self.headers))
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Nothing on stderr."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> SmallMonitor:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):  # hung up already
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def seqs(self) -> list[int]:
        """Numbers of the frames, as they came."""
        return [int(decode(blob)[0]["seq"]) for blob in self.blobs]

    @property
    def steps(self) -> list[int]:
        """All steps of the rows in "steps", as they came."""
        tables = [decode(blob)[1] for blob in self.blobs]
        return [
            int(step) for table in tables if "steps" in table for step in table["steps"]["step"]
        ]


def settings_for(monitor: str, **given: Any) -> Settings:
    """Settings with short intervals, and nothing from the environment."""
    quick = {"interval_s": 0.02, "heartbeat_s": 60.0, "run": "r", "budget": None, **given}
    return resolve({**quick, "monitor": monitor}, environ={})


def header_for(seq: int, **given: Any) -> Header:
    """What an agent's make_header would say."""
    fields: dict[str, Any] = {
        "agent_version": "0",
        "run": "r",
        "attempt": "a",
        "process": "p",
        "rank": 0,
        "world_size": 1,
        "seq": seq,
        "started_at": 1.0,
        "sent_at": 1.0,
        "first_step": 0,
        "complete_through": 0,
    }
    return Header(**{**fields, **given})


def add_step(record: Record, step: int, rows: int = 1) -> None:
    """Rows of the table "steps", all of one step."""
    record.add(
        "steps", step=np.full(rows, step), time=np.zeros(rows), seconds=np.zeros(rows), agent_seconds=np.zeros(rows)
    )  # fmt: skip
