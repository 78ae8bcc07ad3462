"""
What a frame costs the monitor: server CPU per frame over real HTTP on loopback, from the socket to the store.

A frame has 2,000 tensors x 8 statistics (and the step's time, loss and learning rate), as one rank of a large model
sends it at every step under `budget=None`. Decoding, validation, every detector and the transaction are included. The
server is a process of its own; its CPU time is read from /proc before and after, so nothing of the sender counts.

The headline is ONE sender. It is the harder case: it waits for each answer, so that every frame finds cold caches and
has a transaction of its own; four senders keep the server busy and share transactions. Rounds of both take turns, with
the same number of frames: with one sender enough that series are cut, old frames forgotten and SQLite's log folded
in. What is printed is the median of the rounds, and the lowest and highest. The figures move by half and more with
what else the machine does: compare only such as were taken side by side.

    python -m benchmarks.ingest [--rounds 5] [--frames 512] [--profile FILE]
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from trainvitals.frame import Event, Frame, Header, OptimizersSeen, TensorInfo, decode, encode

TENSORS = 2000
WARM_UP = 20
SENDERS = (1, 4)
HEADLINE = 1
TARGET_MS = 2.5


def make_frames(count: int, run: str) -> list[bytes]:
    """Frames of a healthy run: values wander slowly, every parameter moves."""
    rng = np.random.default_rng(0)
    norm = np.exp(rng.normal(size=TENSORS))
    return [_frame(run, seq, norm * (1 + 1e-4 * seq), rng) for seq in range(count)]


def _frame(run: str, seq: int, norm: npt.NDArray[np.float64], rng: np.random.Generator) -> bytes:
    tensors, step = len(norm), seq + 1
    index = np.arange(tensors)
    key = {"tensor": index, "step": np.full(tensors, step)}
    noise = rng.random(tensors)
    header = Header(
        agent_version=version("trainvitals"),
        run=run,
        attempt="0",
        process="p",
        rank=0,
        world_size=1,
        seq=seq,
        started_at=1.7e9,
        sent_at=1.7e9 + step,
        first_step=1,
        complete_through=step,
        tensors=_infos(tensors) if seq == 0 else [],
        scalars=["loss"],
        events=_optimizer(tensors) if seq == 0 else [],
    )
    tables: dict[str, dict[str, Any]] = {
        "values": {**key, "norm": norm, "nonfinite": 0 * index, "exact": 0 * index + 1},
        "updates": {
            **key,
            "update_norm": norm * 1e-3 * (0.5 + noise),
            "looked": 0 * index + 4096,
            "changed": (4096 * (1 - noise / 8)).astype(np.int64),
        },
        "gradients": {**key, "grad_norm": 0.1 + noise, "grad_missing": 0 * index},
        "groups": {"group": [0], "step": [step], "lr": [1e-4]},
        "scalars": {"scalar": [0], "step": [step], "value": [2.0 + rng.random() / 10]},
        "steps": {
            "step": [step],
            "time": [1.7e9 + step],
            "seconds": [0.5],
            "agent_seconds": [0.002],
        },
    }
    return encode(Frame(header=header, tables={name: _columns(c) for name, c in tables.items()}))


def _columns(columns: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(values) for name, values in columns.items()}


def _infos(tensors: int) -> list[TensorInfo]:
    kinds = (
        "attention.wq",
        "attention.wk",
        "attention.wv",
        "attention.wo",
        "ffn.w1",
        "ffn.w2",
        "norm",
    )
    names = [f"layers.{i // len(kinds)}.{kinds[i % len(kinds)]}.weight" for i in range(tensors)]
    return [
        TensorInfo(
            index=i,
            fqn=fqn,
            raw_fqn=fqn,
            kind="param",
            dtype="float32",
            shape=[64, 64],
            trainable=True,
        )
        for i, fqn in enumerate(names)
    ]


def _optimizer(tensors: int) -> list[Event]:
    groups = [list(range(tensors))]
    return [OptimizersSeen(step=1, optimizers=["AdamW"], group_optimizer=[0], group_tensors=groups)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """`trainvitals serve` as a process of its own, on a store that is thrown away."""

    def __init__(self, folder: str, profile: str | None) -> None:
        tool = ["-m", "cProfile", "-o", profile] if profile else []
        command = [sys.executable, *tool, "-m", "trainvitals_monitor.cli", "serve"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--store", folder], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = next(word for word in line.split() if word.startswith("http://"))

    def send(self, frames: list[bytes]) -> None:
        """One sender: every frame is posted when the one before is answered."""
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=30)
        connection.connect()
        # As the agent's sender does: without it every frame waits 40 ms for an acknowledgement.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for blob in frames:
            connection.request(
                "POST", "/api/v1/frames", blob, {"Content-Type": "application/octet-stream"}
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
        connection.close()

    def end(self) -> None:
        """In good order."""
        self.process.terminate()
        self.process.wait(20)


def measure(senders: int, frames: int, profile: str | None) -> tuple[float, float]:
    """Server CPU and wall milliseconds a frame, without the warm-up; each sender has a run and `frames` of its own."""
    runs = [make_frames(frames + WARM_UP, f"benchmark-{number}") for number in range(senders)]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, profile)
        try:
            for run in runs:
                server.send(run[:WARM_UP])
            threads = [threading.Thread(target=server.send, args=(run[WARM_UP:],)) for run in runs]
            cpu, wall = cpu_seconds(server.process.pid), time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            cpu, wall = cpu_seconds(server.process.pid) - cpu, time.perf_counter() - wall
        finally:
            server.end()
    return 1e3 * cpu / (senders * frames), 1e3 * wall / (senders * frames)


def decode_ms(blob: bytes) -> float:
    """CPU time of one decode in this process: the same work always, so it shows how fast the machine is now."""
    started = time.process_time()
    for _ in range(200):
        decode(blob)
    return 1e3 * (time.process_time() - started) / 200


def spread(figures: list[float]) -> str:
    """The median, and the lowest and highest."""
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=512, help="a round, of all senders together")
    parser.add_argument("--profile", help="write the server's cProfile (main thread only) here")
    given = parser.parse_args()
    blob = make_frames(2, "reference")[-1]
    packages = ("fastapi", "uvicorn", "sqlalchemy", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"software  Python {platform.python_version()}, {versions}")
    print(f"frame     {TENSORS} tensors x 8 statistics, {len(blob) / 1000:.0f} kB")
    cpu: dict[int, list[float]] = {senders: [] for senders in SENDERS}
    wall: dict[int, list[float]] = {senders: [] for senders in SENDERS}
    decoding: list[float] = []
    for _ in range(given.rounds):
        decoding.append(decode_ms(blob))
        for senders in SENDERS:
            figures = measure(senders, given.frames // senders, given.profile)
            cpu[senders].append(figures[0])
            wall[senders].append(figures[1])
    print(f"load      {os.getloadavg()[0]:.1f} at the end")
    print(f"decode    {spread(decoding)} ms of CPU, one frame in a loop, between the rounds")
    print(f"rounds    {given.rounds} of {given.frames} frames; median (lowest to highest)")
    print("senders   server CPU, ms a frame    wall, ms a frame")
    for senders in SENDERS:
        print(f"{senders:7d}   {spread(cpu[senders]):<23}   {spread(wall[senders])}")
    print(
        f"headline  {spread(cpu[HEADLINE])} ms of server CPU a frame, one sender; "
        f"the target is {TARGET_MS}"
    )


if __name__ == "__main__":
    main()
