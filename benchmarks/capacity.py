"""
What a monitor takes: disk for a real training, memory for a run of 10,000 tensors, CPU of /metrics at its cap.

Disk: a small GPT is trained under the agent (benchmarks/pages_gpt.py), once looking at everything in every step and once
within the default budget; its frames go through a monitor into a store. A value is one statistic of one tensor at one
step at which it was looked at. Floats are those that the store keeps neither as counts nor as one number.

Memory: one rank's frames of 10,000 tensors x 8 statistics, over more steps than the window keeps; what the server's
resident memory grew by, at the end and at its peak.

/metrics: five runs of 10,000 tensors in 126 layers with adapters, routers and experts, which reach the monitor's cap; the
server's CPU a scrape that asks as Prometheus does, and how much of it is rendering. Nothing but labels is kept from one
scrape to the next.

    python -m benchmarks.capacity                              # three minutes
    python -m benchmarks.capacity --part disk --steps 512
    python -m benchmarks.capacity --write-docs
"""

from __future__ import annotations

import argparse
import gzip
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import ROOT, machine, spread, table, write_part
from benchmarks.serving import Connection, Server
from benchmarks.traffic import STATISTICS, Training
from tests.monitor.large_model import stream
from trainvitals_monitor.chunks import pack
from trainvitals_monitor.config import Config
from trainvitals_monitor.metrics import MAX_SERIES
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.unpacking import unpack_tiles

TARGET_BYTES = 4.0
TARGET_SCRAPE_MS = 40.0
LARGE = 10_000
LARGE_STEPS = 120
SCRAPES = 20
RUNS = 5
PARTS = ("disk", "memory", "metrics")
_AS_PROMETHEUS = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept_Encoding": "gzip"}
_FLOATS = ("h4", "f4", "f8")


def disk(steps: int) -> str:
    """The table of the store."""
    rows = []
    for budget, called in (("none", "everything, every step"), ("0.005", "default budget")):
        with tempfile.TemporaryDirectory(prefix="trainvitals-benchmark-") as folder:
            frames = Path(folder, "frames")
            command = [sys.executable, "-m", "benchmarks.pages_gpt", str(frames)]
            subprocess.run(
                [*command, "--steps", str(steps), "--budget", budget], check=True, cwd=ROOT
            )
            monitor = Monitor(Config(store=str(Path(folder, "store"))))
            monitor.start()
            for blob in sorted(frames.rglob("*.safetensors")):
                monitor.submit(blob.read_bytes()).result()
            path = monitor.store.path
            monitor.close()
            rows.append((called, *_stored(path)))
    header = (
        "looked at",
        "float values",
        "bytes each",
        "all values",
        "bytes each",
        "file",
        "of it frames",
    )
    said = (
        f"A GPT of six layers, 77 tensors, that learns the project's pages, {steps} steps on one rank. Floats are stored "
        f"alone for their figure; with all values come counts, constants and bitmaps; the file also holds the last steps' "
        f"frames, indices and free pages. The aim is at most {TARGET_BYTES:g} bytes a float value."
    )
    return f"### Disk\n\n{said}\n\n{table(header, rows)}"


def _stored(path: Path) -> Sequence[str]:
    """Values and bytes of a store that is closed."""
    values = floats = float_bytes = 0
    with sqlite3.connect(path) as store:
        query = "select first_step, layout, blob from chunks where kind = 'tensor'"
        for first_step, layout, blob in store.execute(query):
            ((steps, statistics),) = unpack_tiles(layout, [(first_step, blob)])
            values += sum(int(seen.sum()) for _, seen in statistics.values())
            fields = dict(text.rsplit(":", 1) for text in layout.split(" ")[1:])
            alone = {
                name: statistics[name] for name, how in fields.items() if how.rstrip("+") in _FLOATS
            }
            chunk = pack(steps, alone) if alone else None
            if chunk is not None:
                floats += sum(int(seen.sum()) for _, seen in alone.values())
                float_bytes += sum(len(one) for one in chunk.blobs if one is not None)
        (frames,) = store.execute("select sum(length(blob)) from frames").fetchone()
        (chunks,) = store.execute("select sum(length(blob)) from chunks").fetchone()
    size = path.stat().st_size
    return (
        f"{floats:,}",
        f"{float_bytes / floats:.2f}",
        f"{values:,}",
        f"{chunks / values:.2f}",
        f"{size / 1e6:.1f} MB",
        f"{frames / size:.0%}",
    )


def memory(tensors: int, steps: int) -> str:
    """The table of the server's memory."""
    training = Training("large", tensors=tensors)
    with Server() as server:
        connection = Connection(server.address)
        empty, _ = server.memory_bytes()
        for step in range(1, steps + 1):
            connection.post(training.frame(0, step, training.columns(step)))
            if step % 20 == 0:
                print(f"\rmemory: step {step} of {steps} ", end="", file=sys.stderr)
        now, peak = server.memory_bytes()
        connection.close()
    print(file=sys.stderr)
    rows = [
        ("monitor without runs", f"{empty / 1e6:.0f} MB"),
        (
            f"a run of {tensors:,} tensors x {STATISTICS} statistics, after {steps} steps",
            f"{(now - empty) / 1e6:.0f} MB more",
        ),
        ("at its peak", f"{(peak - empty) / 1e6:.0f} MB more"),
    ]
    said = (
        "By construction an attempt's window takes 480 MB at most, whatever is looked at, and a run keeps two attempts; of a "
        "larger model fewer steps are kept in memory."
    )
    return f"### Memory\n\n{said}\n\n{table(('', 'resident memory'), rows)}"


def metrics(runs: int, scrapes: int) -> str:
    """The table of /metrics."""
    with Server() as server:
        connection = Connection(server.address)
        for number in range(runs):
            for blob in stream(f"large-{number}").frames:
                connection.post(blob)
            print(f"\rmetrics: run {number + 1} of {runs} ", end="", file=sys.stderr)
        plain = connection.get("/metrics")
        before, rendering = server.cpu_seconds(), []
        for _ in range(scrapes):
            sent = connection.get("/metrics", **_AS_PROMETHEUS)
            rendering.append(1e3 * _rendering_s(sent))
        cost = 1e3 * (server.cpu_seconds() - before) / scrapes
        connection.close()
    print(file=sys.stderr)
    series = sum(not line.startswith(b"#") for line in plain.splitlines())
    rows = [
        ("series", f"{series:,} (the cap is {MAX_SERIES:,} of runs)"),
        ("bytes", f"{len(plain) / 1e6:.1f} MB, {len(sent) / 1e6:.2f} compressed"),
        ("server CPU a scrape", f"{cost:.0f} ms"),
        ("of it to collect and write the series", f"{spread(rendering, '.0f')} ms"),
    ]
    said = (
        f"{runs} runs of 10,000 tensors, {scrapes} scrapes as Prometheus asks for them: OpenMetrics, compressed. The aim is at "
        f"most {TARGET_SCRAPE_MS:g} ms. What is not collecting and writing is nearly all gzip."
    )
    return f"### Metrics\n\n{said}\n\n{table(('', 'measured'), rows)}"


def _rendering_s(sent: bytes) -> float:
    """What the scrape before this one took, as it says itself."""
    lines = gzip.decompress(sent).decode().splitlines()
    name = "trainvitals_monitor_scrape_cpu_seconds "
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; default: all")
    parser.add_argument("--steps", type=int, default=2048, help="of the training")
    parser.add_argument("--tensors", type=int, default=LARGE, help="of the large run")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into the docs")
    given = parser.parse_args()
    made = {
        "disk": lambda: disk(given.steps),
        "memory": lambda: memory(given.tensors, LARGE_STEPS),
        "metrics": lambda: metrics(RUNS, SCRAPES),
    }
    where = machine("torch", "fastapi", "sqlalchemy", "numpy")
    parts = []
    for part in given.part or PARTS:
        parts.append(made[part]())
        print(f"{parts[-1]}\n")
    if given.write_docs and len(parts) == len(PARTS):
        text = "\n\n".join((where, *parts))
        write_part("capacity", f"## Capacity\n\nBy `python -m benchmarks.capacity`.\n\n{text}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
