"""
A monitor on loopback for tests: the real application under the real server, in a thread of the test's process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from trainvitals_monitor.app import create_app
from trainvitals_monitor.config import Config
from trainvitals_monitor.monitor import Monitor

FRAMES = "/api/v1/frames"
OCTETS = {"content-type": "application/octet-stream"}


class Client(httpx.Client):
    """An HTTP client of the monitor, and the monitor itself for a look behind the scenes."""

    monitor: Monitor

    def push(self, blob: bytes, **headers: str) -> httpx.Response:
        """POST a frame."""
        return self.post(FRAMES, content=blob, headers={**OCTETS, **headers})

    def push_all(self, blobs: list[bytes]) -> None:
        """POST frames that must all be accepted."""
        for blob in blobs:
            response = self.push(blob)
            assert response.status_code == 200, response.text

    def get_json(self, path: str, **params: Any) -> Any:
        """GET what must be there."""
        response = self.get(path, params=params or None)
        assert response.status_code == 200, response.text
        return response.json()

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series of /metrics; 0 if it is not there."""
        for line in self.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and all(f'{key}="{text}"' in rest for key, text in labels.items()):
                return float(value)
        return 0.0


@contextmanager
def serving(config: Config, monitor: Monitor | None = None, **client: Any) -> Iterator[Client]:
    """The monitor, ready to take frames; ended in good order afterwards."""
    app = create_app(config, monitor)
    settings = uvicorn.Config(app, port=0, log_level="error", lifespan="on", ws="none")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with Client(base_url=f"http://127.0.0.1:{port}", timeout=20, **client) as http:
        http.monitor = app.state.monitor
        until(lambda: not http.monitor.trouble())
        try:
            yield http
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until(done: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
