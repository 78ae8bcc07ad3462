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
import re
import sys
import threading
import time
from statistics import median
from typing import NamedTuple

from benchmarks.report import machine, spread, table, write_part
from benchmarks.serving import Connection, Server
from benchmarks.traffic import STATISTICS, TENSORS, Training
from trainvitals.frame import decode
from trainvitals_monitor.counters import STAGES

FACTS = TENSORS * STATISTICS
WARM_UP = 20
SENDERS = (1, 4)
TARGET = 1_000_000
"""Tensor-facts a second, on one core."""
TARGET_MS = 2.5
"""Server CPU a frame."""
_COSTLIEST = 5
_SPENT = re.compile(
    r'^trainvitals_(?:monitor_ingest|detector)_seconds_total\{(?:stage|detector)="([^"]+)"\} (\S+)$',
    re.M,
)


class Round(NamedTuple):
    """Milliseconds a frame: server CPU, wall, and what the server itself says it was spent on."""

    cpu: float
    wall: float
    spent: dict[str, float]


def measure(senders: int, frames: int, profile: str | None) -> Round:
    """One round without its warm-up; each sender has a run and `frames` of its own."""
    runs = [Training(f"benchmark-{number}").frames(frames + WARM_UP) for number in range(senders)]
    with Server(core=0, profile=profile) as server:
        for run in runs:
            send(server, run[:WARM_UP])
        threads = [threading.Thread(target=send, args=(server, run[WARM_UP:])) for run in runs]
        before, cpu, wall = _spent_s(server), server.cpu_seconds(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cpu, wall = server.cpu_seconds() - cpu, time.perf_counter() - wall
        spent = {name: seconds - before[name] for name, seconds in _spent_s(server).items()}
    one = 1e3 / (senders * frames)
    return Round(one * cpu, one * wall, {name: one * seconds for name, seconds in spent.items()})


def _spent_s(server: Server) -> dict[str, float]:
    """The monitor's own counters: seconds by stage (wall), and by detector (CPU)."""
    connection = Connection(server.address)
    text = connection.get("/metrics").decode()
    connection.close()
    return {name: float(seconds) for name, seconds in _SPENT.findall(text)}


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


def report(rounds: dict[int, list[Round]], frames: int) -> str:
    """The tables and what they say."""
    rows = []
    for senders, done in rounds.items():
        cpu, wall = [one.cpu for one in done], [one.wall for one in done]
        rows.append(
            (
                str(senders),
                spread(cpu),
                spread(wall),
                spread([FACTS / figure / 1e3 for figure in cpu], ".1f"),
                spread([FACTS / figure / 1e3 for figure in wall], ".1f"),
            )
        )
    header = (
        "senders", "server CPU, ms a frame", "wall, ms a frame", "million facts a CPU second", "million facts a second",
    )  # fmt: skip
    said = (
        f"Frames of {TENSORS} tensors x {STATISTICS} statistics over HTTP into history, detectors and store; the server on "
        f"one core. {len(rounds[SENDERS[0]])} rounds of {frames} frames, median (quartiles). The aims are {TARGET / 1e6:.0f} "
        f"million facts a second, and {TARGET_MS:g} ms of CPU a frame{_missed(rounds)}."
    )
    return f"{said}\n\n{table(header, rows)}\n\n{_profile(rounds[SENDERS[0]])}"


def _missed(rounds: dict[int, list[Round]]) -> str:
    """What of the second aim was not reached, in words."""
    over = [n for n, done in rounds.items() if median(one.cpu for one in done) > TARGET_MS]
    return f", which is missed with {' and with '.join(map(str, over))}" if over else ""


def _profile(rounds: list[Round]) -> str:
    """What a frame of one sender is spent on."""
    spent = {name: [one.spent[name] for one in rounds] for name in rounds[0].spent}
    judging = {name: spent.pop(name) for name in list(spent) if name not in STAGES}
    detectors = [sum(each) for each in zip(*judging.values(), strict=True)]
    worst = sorted(judging, key=lambda name: -median(judging[name]))[:_COSTLIEST]
    rows = [
        ("decode and validate", spread(spent["decode"])),
        ("judge: history, detectors, findings", spread(spent["judge"])),
        (f"of it {len(judging)} detectors", spread(detectors)),
        *((f"of it {name}", spread(judging[name], ".3f")) for name in worst),
        ("store: one transaction, the wait for the disk included", spread(spent["store"])),
    ]
    said = (
        "What it is spent on with one sender, by the monitor's own counters (detectors by CPU, stages by the clock). What of "
        "the CPU is in none of the stages is HTTP: uvicorn, FastAPI, and waking the worker and the event loop for each other."
    )
    return f"{said}\n\n{table(('', 'ms a frame'), rows)}"


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
    rounds: dict[int, list[Round]] = {senders: [] for senders in SENDERS}
    where = machine("fastapi", "uvicorn", "sqlalchemy", "numpy")
    for number in range(given.rounds):
        for senders in SENDERS:
            rounds[senders].append(measure(senders, given.frames // senders, given.profile))
        print(
            f"round {number + 1} of {given.rounds}: "
            + ", ".join(f"{rounds[senders][-1].cpu:.2f} ms with {senders}" for senders in SENDERS)
            + f"; decoding {decode_ms(blob):.3f} ms, load {os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )
    text = report(rounds, given.frames)
    print(f"{where}\n\n{text}")
    if given.write_docs:
        write_part("ingest", f"## Ingest\n\nBy `python -m benchmarks.ingest`.\n\n{where}\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
