"""
A monitor that is killed with -9 in the middle of ingest has, when started again, every frame that it acknowledged.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.monitor.stream import Stream, tensor

ROOT = Path(__file__).parents[2]
RANKS = 3
TENSORS = 200
STEPS = 240


class Server:
    """`trainvitals serve` as a process of its own."""

    def __init__(self, store: Path, *options: str) -> None:
        command = [sys.executable, "-m", "trainvitals_monitor.cli", "serve", "--store", str(store)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = next((word for word in self.line.split() if word.startswith("http")), "")

    def ready(self) -> Server:
        """Wait until stored runs are read back."""
        deadline = time.monotonic() + 30
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Its exit status and what it said on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@contextmanager
def _server(store: Path, *options: str) -> Iterator[Server]:
    server = Server(store, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def _run() -> Stream:
    """Three ranks; a buffer is replaced at step 40, the loss is NaN from step 150 on."""
    names = [f"layers.{i}.w" for i in range(TENSORS)]
    stream = Stream([*names, tensor("moe.expert_bias", kind="buffer")], world_size=RANKS)
    for step in range(1, STEPS + 1):
        if step == 40:
            stream.slot("moe.expert_bias", "object", "storage", outlived=40)
        stream.step(values={"*": float(step)}, loss=float("nan") if step >= 150 else 1.0, lr=1e-3)
    stream.flush()
    return stream


def _push(
    url: str, blobs: list[tuple[int, bytes]], acknowledged: set[int], stop_after: int
) -> None:
    """One sender: frames in order, until the server is gone."""
    headers = {"content-type": "application/octet-stream"}
    with httpx.Client(timeout=20) as client:
        for number, blob in blobs:
            try:
                answer = client.post(f"{url}/api/v1/frames", content=blob, headers=headers)
            except httpx.HTTPError:
                return
            assert answer.status_code == 200, answer.text
            acknowledged.add(number)
            if len(acknowledged) > stop_after:
                return


@pytest.mark.slow
def test_kill_9_during_ingest_loses_no_acknowledged_frame(tmp_path: Path) -> None:
    """Series and findings of all that was acknowledged are back; a resend is a duplicate; the rest goes on from there."""
    stream = _run()
    numbered = list(enumerate(stream.frames))
    by_rank = [numbered[rank::RANKS] for rank in range(RANKS)]
    acknowledged: set[int] = set()
    kill_at = 190 * RANKS
    with _server(tmp_path) as server:
        server.ready()
        senders = [
            threading.Thread(target=_push, args=(server.url, blobs, acknowledged, 10**9))
            for blobs in by_rank
        ]
        for sender in senders:
            sender.start()
        deadline = time.monotonic() + 120
        while len(acknowledged) < kill_at:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(server.process.pid, signal.SIGKILL)
        for sender in senders:
            sender.join(30)
    assert kill_at <= len(acknowledged) < len(numbered), (
        "it was killed while frames were on their way"
    )

    with _server(tmp_path) as server:
        server.ready()
        api = f"{server.url}/api/v1/runs/run"
        complete = _complete_through(acknowledged)
        series = httpx.get(f"{api}/series", params={"tensor": "layers.7.w", "stat": "norm"}).json()
        assert series["steps"][:complete] == list(range(1, complete + 1))
        assert series["values"][:complete] == [float(step) for step in range(1, complete + 1)]
        loss = httpx.get(f"{api}/series", params={"scalar": "loss"}).json()
        assert loss["steps"][:complete] == list(range(1, complete + 1))
        found = {one["detector"]: one for one in httpx.get(f"{api}/findings").json()["findings"]}
        assert found["slot-replaced"]["first_step"] == 40
        assert found["loss-non-finite"]["first_step"] == 150

        headers = {"content-type": "application/octet-stream"}
        with httpx.Client(timeout=20) as client:
            for number, blob in numbered:
                answer = client.post(
                    f"{server.url}/api/v1/frames", content=blob, headers=headers
                ).json()
                if number in acknowledged:
                    assert answer["duplicate"], number
        series = httpx.get(f"{api}/series", params={"tensor": "layers.7.w", "stat": "norm"}).json()
        assert series["steps"] == list(range(1, STEPS + 1))
        again = {one["detector"]: one for one in httpx.get(f"{api}/findings").json()["findings"]}
        assert {name: one["id"] for name, one in again.items() if name in found} == {
            name: one["id"] for name, one in found.items()
        }


def _complete_through(acknowledged: set[int]) -> int:
    """The last step of which every rank's frame, and all before, were acknowledged; round 0 has the tensor tables."""
    rounds = 0
    while all(rounds * RANKS + rank in acknowledged for rank in range(RANKS)):
        rounds += 1
    return rounds - 1


def test_sigterm_ends_it_in_good_order_with_all_that_was_accepted(tmp_path: Path) -> None:
    """Exit status 0, nothing on stderr, and a next start has the frames; also after Ctrl-C."""
    stream = Stream(["w"])
    for number in (signal.SIGTERM, signal.SIGINT):
        stream.step(values={"w": 1.0}, steps=3)
        stream.flush()
        with _server(tmp_path) as server:
            _push(server.url, list(enumerate(stream.frames)), set(), 10**9)
            assert server.end(number) == (0, "")
    with _server(tmp_path) as server:
        server.ready()
        series = httpx.get(f"{server.url}/api/v1/runs/run/series", params={"tensor": "w"}).json()
        assert series["steps"] == [1, 2, 3, 4, 5, 6]


def test_it_ends_by_itself_when_idle(tmp_path: Path) -> None:
    """`--idle-exit-s`: so many seconds after the last request, with status 0."""
    with _server(tmp_path, "--idle-exit-s", "1.5") as server:
        for _ in range(3):
            time.sleep(0.8)
            assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.process.wait(20) == 0


def test_what_keeps_it_from_starting_is_one_line_and_status_2(tmp_path: Path) -> None:
    """A port in use, a store in use, a path that is none."""
    with socket.socket() as taken, _server(tmp_path / "a") as first:
        assert first.url
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "file").write_text("x")
        for store, options, words in (
            (tmp_path / "b", ("--port", str(port)), "Address already in use"),
            (tmp_path / "a", (), "another monitor is using it"),
            (tmp_path / "file" / "store", (), "store"),
        ):
            with _server(store, *options) as server:
                _, errors = server.process.communicate(timeout=30)
                assert server.process.returncode == 2, errors
            assert words in errors
            assert "Traceback" not in errors


def test_the_address_is_printed_once_it_really_listens(tmp_path: Path) -> None:
    """Port 0 is any free one, and whoever reads the line can connect at once."""
    with _server(tmp_path) as server:
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert str(tmp_path) in server.line
