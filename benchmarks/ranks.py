"""
A thousand ranks of one run, each with a frame of 2,000 tensors x 8 statistics every 10 seconds: does the monitor keep up?

First every rank arrives with its tensor table. Then comes the steady state, in real time: the ranks send at instants
that are spread evenly over the rhythm, from 32 connections of one process (a rank of its own each would need a thousand
processes), every frame about the next step. A step is judged when its last rank's frame is in. What is measured is how
long a sender waits for its answer, which holds the time in the queue, judging and the commit; the server's CPU; and its
memory. By default ranks hold boxes (FSDP2): each its own row of every tensor, which have to be merged.

What this does not show: the hour after which frames are forgotten (that is in ingest.py, with one rank), a network.

    python -m benchmarks.ranks                                     # 1,000 ranks, 60 seconds of steady state, 3 minutes
    python -m benchmarks.ranks --ranks 250 --seconds 20
    python -m benchmarks.ranks --layout replica --write-docs
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.report import machine, spread, table, write_part
from benchmarks.serving import Connection, Server
from benchmarks.traffic import STATISTICS, TENSORS, Columns, Training

CONNECTIONS = 32
RHYTHM_S = 10.0
TARGET_LAG_S = 1.0


@dataclass
class Waited:
    """
    Seconds that frames waited for their answers, those of them that ended a step, and by how much the senders themselves
    came late.
    """

    answers: list[float] = field(default_factory=list)
    ending: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Due:
    """A frame and when it is to be sent, by time.monotonic(); 0: at once."""

    rank: int
    step: int
    at: float = 0.0


class Senders:
    """Takes frames in turn from one list, each connection the next that is due."""

    def __init__(self, server: Server, training: Training, dues: Iterable[Due]) -> None:
        self.waited = Waited()
        self._address = server.address
        self._training = training
        self._dues: Iterator[Due] = iter(dues)
        self._lock = threading.Lock()
        self._stopped = False
        self._columns = {1: training.columns(1)}

    def run(self, what: str) -> float:
        """Send all; the wall seconds that it took. Says how far it is."""
        threads = [threading.Thread(target=self._send, daemon=True) for _ in range(CONNECTIONS)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                time.sleep(1.0)
                count, took = len(self.waited.answers), time.monotonic() - started
                print(f"\r{what}: {count} frames, {took:.0f} s ", end="", file=sys.stderr)
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()
        print(file=sys.stderr)
        return time.monotonic() - started

    def _send(self) -> None:
        connection = Connection(self._address)
        while not self._stopped:
            with self._lock:
                due = next(self._dues, None)
                if due is None:
                    break
                columns = self._of(due.step)
            blob = self._training.frame(due.rank, due.step, columns)
            time.sleep(max(0.0, due.at - time.monotonic()))
            started = time.monotonic()
            connection.post(blob)
            took = time.monotonic() - started
            self.waited.answers.append(took)
            if due.rank == self._training.world_size - 1:
                self.waited.ending.append(took)
            self.waited.behind.append(started - due.at)
        connection.close()

    def _of(self, step: int) -> Columns:
        if step not in self._columns:
            self._columns = {
                known: self._columns[known] for known in self._columns if known == step - 1
            }
            self._columns[step] = self._training.columns(step)
        return self._columns[step]


def steady(ranks: int, rhythm_s: float, seconds: float) -> Iterator[Due]:
    """Ranks one after another, evenly over the rhythm, step after step."""
    begun = time.monotonic() + 1.0
    for number in itertools.count():
        at = number * rhythm_s / ranks
        if at >= seconds:
            return
        yield Due(number % ranks, 2 + number // ranks, begun + at)


def measure(training: Training, rhythm_s: float, seconds: float) -> str:
    """Both phases; the report."""
    ranks = training.world_size
    with Server() as server:
        empty, _ = server.memory_bytes()
        arrival = Senders(server, training, [Due(rank, 1) for rank in range(ranks)])
        arrival_s = arrival.run("arriving")
        arrival_cpu_s = server.cpu_seconds()
        load = Senders(server, training, steady(ranks, rhythm_s, seconds))
        wall_s = load.run("steady")
        cpu_s = server.cpu_seconds() - arrival_cpu_s
        memory, peak = server.memory_bytes()
        steps = Connection(server.address).get_json("/api/v1/runs")["runs"][0]["step"]
    answers, ending = np.array(load.waited.answers), load.waited.ending
    late = np.array(load.waited.behind)
    middle, high, longest = (float(one) for one in np.quantile(answers, (0.5, 0.99, 1.0)))
    rows = [
        (
            "all ranks have arrived after",
            f"{arrival_s:.0f} s ({1e3 * arrival_cpu_s / ranks:.0f} ms of CPU each)",
        ),
        ("frames in the steady state", f"{len(answers)} in {wall_s:.0f} s, {steps} steps judged"),
        ("wait for the answer, median", f"{1e3 * middle:.0f} ms"),
        ("99th percentile", f"{1e3 * high:.0f} ms"),
        ("longest", f"{1e3 * longest:.0f} ms"),
        (
            "of the frame that ends a step, and has it judged",
            f"{spread([1e3 * one for one in ending], '.0f')} ms" if ending else "none did",
        ),
        ("senders late by, 99th percentile", f"{1e3 * float(np.quantile(late, 0.99)):.0f} ms"),
        (
            "server CPU",
            f"{1e3 * cpu_s / len(answers):.2f} ms a frame, {cpu_s / wall_s:.0%} of a core",
        ),
        ("memory", f"{(memory - empty) / 1e6:.0f} MB, {(peak - empty) / 1e6:.0f} at its peak"),
    ]
    facts = ranks * training.tensors * STATISTICS / rhythm_s
    rate = len(answers) * training.tensors * STATISTICS / cpu_s
    over = longest > TARGET_LAG_S
    said = (
        f"{ranks} ranks of one run ({training.layout}), each with a frame of {training.tensors} tensors x {STATISTICS} "
        f"statistics every {rhythm_s:g} s, spread evenly; {CONNECTIONS} connections of one sending process on the same "
        f"machine; {seconds:.0f} s in real time. The aim is a lag below {TARGET_LAG_S:g} s, which "
        f"is {'missed by the longest' if over else 'kept by all'}. The rhythm brings {facts / 1e6:.2f} million facts a second; "
        f"the server took in {rate / 1e6:.2f} million a second of CPU. Ranks are merged as they "
        f"come, 16 at a time; the frame that ends a step finds the last of them left, and has the step judged: it waits "
        f"longer than most, and all that come meanwhile wait with it. The first step of all takes about a second more, for "
        f"there it is found out once who holds which part."
    )
    figures = table(("", "measured"), rows)
    return f"{said}\n\n{figures}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=TENSORS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of steady state")
    parser.add_argument("--rhythm-s", type=float, default=RHYTHM_S)
    parser.add_argument("--layout", choices=("box", "replica"), default="box")
    parser.add_argument("--write-docs", action="store_true", help="put the table into the docs")
    given = parser.parse_args()
    where = machine("fastapi", "uvicorn", "sqlalchemy", "numpy")
    training = Training(
        "benchmark", tensors=given.tensors, world_size=given.ranks, layout=given.layout
    )
    text = measure(training, given.rhythm_s, given.seconds)
    print(f"{where}\n\n{text}\n\nload {os.getloadavg()[0]:.1f} at the end")
    if given.write_docs:
        write_part(
            "ranks", f"## A thousand ranks\n\nBy `python -m benchmarks.ranks`.\n\n{where}\n\n{text}"
        )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
