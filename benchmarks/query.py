"""
How long readers wait while frames come in: a tensor's series over 100,000 steps, the worst 10 now, the findings.

A run of 100,000 steps is put into the store first, with the monitor's own chunks and tiers (made directly: sent as
frames they would take a quarter of an hour). Then the monitor starts on it, takes frames of 2,000 tensors x 8
statistics of another run at a steady rate, and of the long run itself, so that it is live; and a reader on one
connection asks for one thing after another. Measured is the wall time of a request over HTTP on loopback, to the
last byte, and the server's CPU a request when nothing comes in. One of the questions is none (/healthz): what it waits
for is HTTP, and the one who judges.

    python -m benchmarks.query                                 # two minutes
    python -m benchmarks.query --reads 50 --rate 20
    python -m benchmarks.query --steps 20000 --tensors 64
    python -m benchmarks.query --write-docs
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import threading
import time
from collections.abc import Mapping
from statistics import median

import numpy as np

from benchmarks.report import machine, spread, table, write_part
from benchmarks.serving import Connection, Server, run_path
from benchmarks.traffic import STATISTICS, TENSORS, Training
from trainvitals_monitor.config import Config
from trainvitals_monitor.pieces import PIECE_STEPS, Piece
from trainvitals_monitor.placing import Places
from trainvitals_monitor.store import Store
from trainvitals_monitor.thinning import AttemptThinning

TARGET_MS = 5.0
LIVE_STEPS = 300
"""Of the long run, sent as frames: more than its window."""


def fill(folder: str, training: Training, steps: int) -> None:
    """A store with the run's series up to this step, as the monitor's writer would have left them."""
    store = Store(folder)
    places = Places()
    with store.writing() as writing:
        attempt_id = writing.add_attempt(writing.add_run(training.run, 0.0), "0", 1, 1.7e9)
    thinning = AttemptThinning(attempt_id, Config().keep_steps)
    fqns = [training.fqn(tensor) for tensor in range(training.tensors)]
    for first in range(0, steps, PIECE_STEPS):
        at = np.arange(first, min(first + PIECE_STEPS, steps))
        places.add(piece := _piece(training, fqns, at))
        chunk = places.tensor_chunk(piece)
        assert chunk is not None
        with store.writing() as writing:
            writing.put_places(attempt_id, "tensor", places.fresh_tensors)
            writing.put_places(attempt_id, "scalar", places.fresh_scalars)
            writing.put_chunk(attempt_id, "tensor", chunk)
            for tile, one in places.scalar_chunks(piece):
                writing.put_chunk(attempt_id, "scalar", one, tile)
            thinning.go_on(writing, int(at[-1]) + 1, places.num_tiles)
        if first % (100 * PIECE_STEPS) == 0:
            print(f"\rfilling: step {first} of {steps} ", end="", file=sys.stderr)
    print(file=sys.stderr)
    store.close()


def _piece(training: Training, fqns: list[str], at: np.ndarray) -> Piece:
    """The statistics of some steps, with the rows of `traffic` in the shape in which the window lends them."""
    tables = [training.columns(int(step)) for step in at[:1]]
    noise = 1 + 1e-3 * np.sin(at / 17.0)[:, None]
    seen = np.ones((len(at), training.tensors), np.bool_)
    statistics = {
        name: (values * noise if values.dtype.kind == "f" else values * np.ones_like(noise), seen)
        for columns in (tables[0][table] for table in ("values", "updates", "gradients"))
        for name, values in columns.items()
        if name not in ("tensor", "step")
    }
    return Piece(
        attempt="0",
        steps=at,
        fqns=fqns,
        statistics=statistics,
        scalars={"loss": (at, 2 + 0.1 * np.sin(at / 100.0))},
    )


class Load:
    """Frames at a steady rate until `end`."""

    def __init__(self, server: Server, rate: float) -> None:
        self.sent = 0
        self._address, self._rate, self._ended = server.address, rate, threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        self._thread.join()

    def _send(self) -> None:
        training = Training("load")
        connection = Connection(self._address)
        begun = time.monotonic()
        for step in itertools.count(1):
            connection.post(training.frame(0, step, training.columns(step)))
            self.sent += 1
            if self._ended.wait(max(0.0, begun + step / self._rate - time.monotonic())):
                break
        connection.close()


def questions(training: Training, steps: int) -> Mapping[str, str]:
    """What is asked, by what it is called."""
    tensor = training.fqn(training.tensors // 2)
    of = f"tensor={tensor}&stat=norm"
    return {
        f"a tensor over {steps:,} steps": run_path(training.run, f"series?{of}"),
        "its last 1,000 steps, one by one": run_path(
            training.run, f"series?{of}&from={steps - 1000}"
        ),
        "the loss over all steps": run_path(training.run, "series?scalar=loss"),
        "worst 10 now": run_path(training.run, "worst?stat=norm&count=10"),
        "worst 10 now, of the run that comes in": run_path("load", "worst?stat=grad_norm&count=10"),
        "findings": run_path(training.run, "findings"),
        "nothing (/healthz)": "/healthz",
    }


def ask(server: Server, asked: Mapping[str, str], reads: int) -> dict[str, list[float]]:
    """Milliseconds of each question, asked in turns."""
    connection = Connection(server.address)
    found: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(reads):
        for name, path in asked.items():
            started = time.perf_counter()
            connection.get(path)
            found[name].append(1e3 * (time.perf_counter() - started))
    connection.close()
    return found


def cpu_ms(server: Server, path: str, reads: int) -> float:
    """Server CPU a request, of one question asked again and again."""
    before = server.cpu_seconds()
    ask(server, {"": path}, reads)
    return 1e3 * (server.cpu_seconds() - before) / reads


def measure(training: Training, steps: int, reads: int, rate: float) -> str:
    """The report."""
    with Server(fill=lambda folder: fill(folder, training, steps)) as server:
        own = Connection(server.address)
        live = Training(training.run, tensors=training.tensors, first_step=steps)
        for step in range(steps, steps + LIVE_STEPS):
            own.post(live.frame(0, step, live.columns(step)))
        own.close()
        asked = questions(training, steps)
        load = Load(server, rate)
        time.sleep(2.0)
        sent, cpu, begun = load.sent, server.cpu_seconds(), time.monotonic()
        print("reading while frames come in", file=sys.stderr)
        busy = ask(server, asked, reads)
        wall = time.monotonic() - begun
        share, came = (server.cpu_seconds() - cpu) / wall, (load.sent - sent) / wall
        load.end()
        print("reading while none come in", file=sys.stderr)
        quiet = ask(server, asked, reads)
        costs = {name: cpu_ms(server, path, reads) for name, path in asked.items()}
        stored = server.store_bytes()
    rows = [(name, spread(busy[name]), spread(quiet[name]), f"{costs[name]:.1f}") for name in asked]
    said = (
        f"A run of {steps + LIVE_STEPS:,} steps with {training.tensors} tensors x {STATISTICS} statistics in a store of "
        f"{stored / 1e6:.0f} MB, while {came:.0f} frames of {TENSORS} tensors x {STATISTICS} statistics a second come in "
        f"({rate:g} were meant to; the server, reads included, used {share:.0%} of a core). {reads} reads of each; "
        f"milliseconds over HTTP, median (quartiles). The aim is a median below {TARGET_MS:g} ms while frames come in{_missed(busy)}. What "
        f"a read takes beyond its CPU is waiting for the stage that a frame is in (between two the worker lets reads go "
        f"first), for a core, and for the interpreter's lock."
    )
    figures = table(
        ("asked for", "while frames come in", "while none come in", "server CPU, ms"), rows
    )
    return f"{said}\n\n{figures}"


def _missed(busy: Mapping[str, list[float]]) -> str:
    """What is not there yet, in words."""
    over = [name for name, waited in busy.items() if median(waited) > TARGET_MS]
    return f", which is missed for {'; '.join(over)}" if over else ", and is reached for all"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000, help="in the store")
    parser.add_argument("--tensors", type=int, default=256, help="of the long run")
    parser.add_argument("--reads", type=int, default=200, help="of each question")
    parser.add_argument("--rate", type=float, default=100.0, help="frames a second that come in")
    parser.add_argument("--write-docs", action="store_true", help="put the table into the docs")
    given = parser.parse_args()
    where = machine("fastapi", "uvicorn", "sqlalchemy", "numpy")
    text = measure(Training("long", tensors=given.tensors), given.steps, given.reads, given.rate)
    print(f"{where}\n\n{text}\n\nload {os.getloadavg()[0]:.1f} at the end")
    if given.write_docs:
        write_part("query", f"## Reads\n\nBy `python -m benchmarks.query`.\n\n{where}\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
