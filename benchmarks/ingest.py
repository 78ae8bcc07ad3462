"""
What a frame costs the monitor: server CPU per frame over real HTTP on loopback, from the socket to the store.

A frame has 2,000 tensors x 8 statistics (and the step's time, loss and learning rate), as one rank of a large model
sends it at every step under `budget=None`. Decoding, validation, every detector and the transaction are included. The
server is a process of its own; its CPU time is read from /proc before and after, so nothing of the sender counts.

    python benchmarks/ingest.py [--frames 300] [--profile FILE]
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import socket
import subprocess
import sys
import tempfile
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
LIMIT_S = 120.0
TARGET_MS = 2.5


def make_frames(count: int, tensors: int = TENSORS) -> list[bytes]:
    """Frames of a healthy run: values wander slowly, every parameter moves."""
    rng = np.random.default_rng(0)
    norm = np.exp(rng.normal(size=tensors))
    return [_frame(seq, norm * (1 + 1e-4 * seq), rng) for seq in range(count)]


def _frame(seq: int, norm: npt.NDArray[np.float64], rng: np.random.Generator) -> bytes:
    tensors, step = len(norm), seq + 1
    index = np.arange(tensors)
    key = {"tensor": index, "step": np.full(tensors, step)}
    noise = rng.random(tensors)
    header = Header(
        agent_version=version("trainvitals"),
        run="benchmark",
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


def post(connection: http.client.HTTPConnection, blob: bytes) -> None:
    """One frame, accepted."""
    connection.request("POST", "/api/v1/frames", blob, {"Content-Type": "application/octet-stream"})
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body


def measure(frames: list[bytes], profile: str | None) -> tuple[float, float, int]:
    """Server CPU seconds, wall seconds and number of frames, without the warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        tool = ["-m", "cProfile", "-o", profile] if profile else []
        command = [sys.executable, *tool, "-m", "trainvitals_monitor.cli"]
        server = subprocess.Popen(
            [*command, "serve", "--port", "0", "--store", folder], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = next(word for word in line.split() if word.startswith("http://"))
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
            connection.connect()
            # As the agent's sender does: without it every frame waits 40 ms for an acknowledgement.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for blob in frames[:WARM_UP]:
                post(connection, blob)
            cpu, wall, sent = cpu_seconds(server.pid), time.perf_counter(), 0
            for blob in frames[WARM_UP:]:
                post(connection, blob)
                sent += 1
                if time.perf_counter() - wall > LIMIT_S:
                    break
            return cpu_seconds(server.pid) - cpu, time.perf_counter() - wall, sent
        finally:
            server.terminate()
            server.wait(20)


def decode_ms(blob: bytes) -> float:
    """CPU time of one decode in this process: the same work always, so it shows what else the machine does."""
    started = time.process_time()
    for _ in range(200):
        decode(blob)
    return 1e3 * (time.process_time() - started) / 200


def main() -> None:
    """Measure once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--profile", help="write the server's cProfile (main thread only) here")
    given = parser.parse_args()
    frames = make_frames(given.frames + WARM_UP)
    cpu, wall, sent = measure(frames, given.profile)
    size = len(frames[-1])
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "sqlalchemy", "numpy")
    )
    print(
        f"machine            {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"software           Python {platform.python_version()}, {packages}")
    print(
        f"frames             {sent} of {TENSORS} tensors x 8 statistics, {size / 1000:.0f} kB each"
    )
    print(f"server CPU a frame {1e3 * cpu / sent:.2f} ms (target: at most {TARGET_MS} ms)")
    reference = decode_ms(frames[-1])
    print(
        f"decode() alone     {reference:.2f} ms at this moment (0.25 to 0.3 ms on an idle core: tells how noisy it is)"
    )
    print(f"wall a frame       {1e3 * wall / sent:.2f} ms, one sender that waits for each answer")


if __name__ == "__main__":
    main()
