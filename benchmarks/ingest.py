"""
What a frame costs the monitor: server CPU per frame over real HTTP on loopback, from the socket to the store.

A frame has 2,000 tensors x 8 statistics (and the step's time, loss and learning rate), as one rank of a large model
sends it at every step under `budget=None`. Decoding, validation, every detector and the transaction are included. The
server is a process of its own, bound to one core; its CPU time is read from /proc before and after, so nothing of the
sender counts.

One sender is the harder case: it waits for each answer, so that every frame finds cold caches and has a transaction of
its own; four senders keep the server busy and share transactions. Rounds of both take turns, with the same number of
frames: with one sender enough that series are cut, old frames forgotten and SQLite's log folded in. What is printed is
the median of the rounds with the quartiles. The figures move by half and more with what else the machine does: compare
only such as were taken side by side. The decoding of one frame in a loop, between rounds, shows how fast it is now.

    python -m benchmarks.ingest
    python -m benchmarks.ingest --rounds 3 --frames 256
    python -m benchmarks.ingest --write-docs                 # about two minutes
    python -m benchmarks.ingest --rounds 1 --profile ingest.prof
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

from benchmarks.report import machine, spread, table, write_part
from benchmarks.serving import Connection, Server
from benchmarks.traffic import STATISTICS, TENSORS, Training
from trainvitals.frame import decode

FACTS = TENSORS * STATISTICS
WARM_UP = 20
SENDERS = (1, 4)
TARGET = 1_000_000
"""Tensor-facts a second, on one core."""


def measure(senders: int, frames: int, profile: str | None) -> tuple[float, float]:
    """Server CPU and wall milliseconds a frame, without the warm-up; each sender has a run and `frames` of its own."""
    runs = [Training(f"benchmark-{number}").frames(frames + WARM_UP) for number in range(senders)]
    with Server(core=0, profile=profile) as server:
        for run in runs:
            send(server, run[:WARM_UP])
        threads = [threading.Thread(target=send, args=(server, run[WARM_UP:])) for run in runs]
        cpu, wall = server.cpu_seconds(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cpu, wall = server.cpu_seconds() - cpu, time.perf_counter() - wall
    return 1e3 * cpu / (senders * frames), 1e3 * wall / (senders * frames)


def send(server: Server, frames: list[bytes]) -> None:
    """One sender: every frame is posted when the one before is answered."""
    connection = Connection(server.address)
    for blob in frames:
        connection.post(blob)
    connection.close()


def decode_ms(blob: bytes) -> float:
    """CPU time of one decode in this process."""
    started = time.process_time()
    for _ in range(200):
        decode(blob)
    return 1e3 * (time.process_time() - started) / 200


def report(cpu: dict[int, list[float]], wall: dict[int, list[float]], frames: int) -> str:
    """The table and what it says."""
    rows = [
        (
            str(senders),
            spread(cpu[senders]),
            spread(wall[senders]),
            spread([FACTS / figure / 1e3 for figure in cpu[senders]], ".1f"),
            spread([FACTS / figure / 1e3 for figure in wall[senders]], ".1f"),
        )
        for senders in SENDERS
    ]
    header = (
        "senders", "server CPU, ms a frame", "wall, ms a frame", "million facts a CPU second", "million facts a second",
    )  # fmt: skip
    said = (
        f"Frames of {TENSORS} tensors x {STATISTICS} statistics over HTTP into history, detectors and store; the server on "
        f"one core. {len(cpu[SENDERS[0]])} rounds of {frames} frames, median (quartiles). The aim is {TARGET / 1e6:.0f} "
        f"million facts a second."
    )
    figures = table(header, rows)
    return f"{said}\n\n{figures}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=512, help="a round, of all senders together")
    parser.add_argument("--profile", help="write the server's cProfile (main thread only) here")
    parser.add_argument("--write-docs", action="store_true", help="put the table into the docs")
    given = parser.parse_args()
    blob = Training("reference").frames(2)[-1]
    cpu: dict[int, list[float]] = {senders: [] for senders in SENDERS}
    wall: dict[int, list[float]] = {senders: [] for senders in SENDERS}
    where = machine("fastapi", "uvicorn", "sqlalchemy", "numpy")
    for number in range(given.rounds):
        for senders in SENDERS:
            figures = measure(senders, given.frames // senders, given.profile)
            cpu[senders].append(figures[0])
            wall[senders].append(figures[1])
        print(
            f"round {number + 1} of {given.rounds}: "
            + ", ".join(f"{cpu[senders][-1]:.2f} ms with {senders}" for senders in SENDERS)
            + f"; decoding {decode_ms(blob):.3f} ms, load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )
    text = report(cpu, wall, given.frames)
    print(f"{where}\n\n{text}")
    if given.write_docs:
        write_part("ingest", f"## Ingest\n\nBy `python -m benchmarks.ingest`.\n\n{where}\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
