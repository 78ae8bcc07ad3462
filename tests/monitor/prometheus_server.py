"""
A real Prometheus on loopback for tests, with its HTTP API.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.monitor.prometheus import tool


class PrometheusServer:
    """Asks a Prometheus; what it refuses is an error of the test."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)

    def ask(self, path: str, **params: Any) -> Any:
        """GET from the API: the answer's data."""
        response = self._http.get(f"/api/v1/{path}", params=params)
        assert response.status_code == 200, f"{params}: {response.text}"
        return response.json()["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What an instant query gives now."""
        result: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return result

    def query_range(self, expr: str, seconds: float) -> list[dict[str, Any]]:
        """What a query over the last `seconds` gives."""
        now = time.time()
        result: list[dict[str, Any]] = self.ask(
            "query_range", query=expr, start=now - seconds, end=now, step=1
        )["result"]
        return result

    def is_ready(self) -> bool:
        """Whether it answers queries yet."""
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def await_scrapes(self, expr: str, scrapes: int) -> None:
        """Wait until each series of `expr` has so many samples."""
        counted = f"min(count_over_time({expr}[1m])) >= {scrapes}"
        _until(lambda: bool(self.query(counted)), f"{scrapes} scrapes of {expr}")

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()


@contextmanager
def running_prometheus(config: dict[str, Any], folder: Path) -> Iterator[PrometheusServer]:
    """Prometheus with this configuration and a store below `folder`; the test is skipped where it is not installed."""
    program = tool("prometheus")
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "prometheus.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=out,
            stderr=out,
        )
    server = PrometheusServer(f"http://{address}")
    try:
        _until(lambda: process.poll() is not None or server.is_ready(), "Prometheus to be ready")
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(20)


def _until(done: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
