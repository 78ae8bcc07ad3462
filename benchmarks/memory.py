"""
The memory that the agent takes of a trainer, for each tensor and besides.

A process trains tensors of one size in memory that stays the same from step to step; then an agent is attached, which sends
to a monitor, and training goes on until every kind of look has been taken and frames have been sent. The difference of
before and after, in the same process, is the agent's. Freed memory is given back before it is asked (`malloc_trim`), and
asked is what is anonymous: mapped files are counted, or not, by who else maps them. The highest is what the kernel saw
while the agent was attached and looked, attaching included, above the highest without it.

Two numbers of tensors give two figures: the slope is what a tensor takes, the rest what an agent takes of any model; the
GPT of 25 million parameters (trainings.py) is measured as it is. Every process is new; medians over the repetitions, with
quartiles.

    python -m benchmarks.memory                        # all of it: fifteen minutes
    python -m benchmarks.memory --part large --repeats 1
    python -m benchmarks.memory --write-docs           # also puts the table into docs/benchmarks.md

Linux with glibc only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import trainvitals
from benchmarks.lockstep import memory_now
from benchmarks.overhead import BUDGETS, CONTROL
from benchmarks.report import machine, progress, spread, table, write_part
from benchmarks.trainings import SmallGPT, SteadyLayers, Training
from trainvitals_monitor.child import ChildMonitor

INTRODUCTION = """\
By `python -m benchmarks.memory`: a process trains tensors of one size by AdamW in memory that stays the same from step to
step, then attaches an agent that sends to a monitor, and trains 24 steps more: every kind of look is taken in them. The
difference in that process is the agent's, of two numbers of tensors: what each tensor takes, and what an agent takes of
any model. "Held" is asked when frames are sent and freed memory is given back; "at its highest" is at any moment of
attaching and of these steps, with the libraries that an agent loads and the facts that wait to be sent: of more tensors
these are more, up to `queue_bytes`. "unattached again" does all that without an agent: noise. Medians over new processes,
with quartiles.

What is held of a large tensor are its cores, 16 KB of float32, to be compared with the next ones; the rest are objects
of Python's and torch's. The GPT's own highest moments move by tens of megabytes from process to process, attached or not,
as "unattached again" shows."""
_Found = TypeVar("_Found")
BEFORE_STEPS = 5
STEPS = 24
"""Digests come every 16 steps, counters every 4, gradients that are kept in the first 16, and frames once a second."""


@dataclass(frozen=True)
class Case:
    """So many tensors of this shape, and so many more."""

    name: str
    shape: tuple[int, int]
    few: int
    many: int


CASES = {
    "large": Case("of 8,192 elements", (64, 128), 1_000, 4_000),
    "small": Case("of 64 elements", (8, 8), 5_000, 20_000),
}


GPT = "gpt"


@dataclass(frozen=True)
class Added:
    """Bytes that came on top: when all is quiet, and at the highest."""

    held: int
    highest: int


# -- in a process of its own -------------------------------------------------------------------------------------------


def _work(pipe: Connection, make: Callable[[], Training], arm: str, monitor: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    pipe.send(_added(make(), arm, monitor))


def _added(training: Training, arm: str, monitor: str) -> Added:
    for _ in range(BEFORE_STEPS):
        training.step()
    _settled()
    _forget_peak()
    for _ in range(BEFORE_STEPS):
        training.step()
    highest, held = memory_now().peak, _settled()
    _forget_peak()
    if arm == CONTROL:
        for _ in range(STEPS):
            training.step()
        return Added(held=-held + _settled(), highest=-highest + memory_now().peak)
    agent = trainvitals.attach(
        training.model,
        training.optimizer,
        run="memory",
        monitor=monitor,
        budget=BUDGETS[arm],
        quiet=True,
    )
    for _ in range(STEPS):
        agent.log(loss=training.step())
    highest, sent = memory_now().peak - highest, agent.flush()
    held = _settled() - held
    failed = agent.coverage()["switched_off"]
    agent.close()
    if failed or not sent:
        raise RuntimeError(f"the agent did not do all of its work: {failed or 'nothing sent'}")
    return Added(held, highest)


def _settled() -> int:
    """Anonymous memory when all that is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory_now().anonymous


def _forget_peak() -> None:
    """From now on the kernel's high-water mark begins anew: `man 5 proc`, clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


# -- measuring and showing ---------------------------------------------------------------------------------------------


def measure(make: Callable[[], Training], arm: str, monitor: str) -> Added:
    """One new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, make, arm, monitor), daemon=True)
    process.start()
    theirs.close()
    try:
        found: Added = ours.recv()
    except EOFError as error:
        raise RuntimeError("a process has ended; what it said stands above") from error
    finally:
        process.terminate()
        process.join()
    return found


def rows(case: Case, repeats: int, monitor: str, say: Callable[[str], None]) -> list[list[str]]:
    """A row for each arm."""

    def pair(arm: str) -> tuple[Added, Added]:
        few, many = (
            measure(partial(SteadyLayers, count, case.shape), arm, monitor)
            for count in (case.few, case.many)
        )
        return few, many

    found = _in_turns(f"tensors {case.name}", pair, repeats, say)
    return [[f"{case.name}, {arm}", *_figures(case, pairs)] for arm, pairs in found.items()]


def gpt_rows(repeats: int, monitor: str, say: Callable[[str], None]) -> list[list[str]]:
    """Of the GPT: a row for each arm, MB held and at the highest."""
    found = _in_turns("GPT", lambda arm: measure(SmallGPT, arm, monitor), repeats, say)
    return [
        [
            arm,
            spread([each.held / 1e6 for each in added], ".1f"),
            spread([each.highest / 1e6 for each in added], ".0f"),
        ]
        for arm, added in found.items()
    ]


def _in_turns(
    what: str, one: Callable[[str], _Found], repeats: int, say: Callable[[str], None]
) -> dict[str, list[_Found]]:
    """By arm, what `one` gives of it, so many times; arms take turns."""
    found: dict[str, list[_Found]] = {arm: [] for arm in (CONTROL, *BUDGETS)}
    for repeat in range(repeats):
        for arm, so_far in found.items():
            say(f"{what}, {arm}: {repeat + 1} of {repeats}")
            so_far.append(one(arm))
    return found


def _figures(case: Case, pairs: Sequence[tuple[Added, Added]]) -> list[str]:
    """KB a tensor, held and at the highest; MB of any model, likewise."""
    held = [_line(case, few.held, many.held) for few, many in pairs]
    highest = [_line(case, few.highest, many.highest) for few, many in pairs]
    slopes = [spread([slope / 1024 for slope, _ in each], ".1f") for each in (held, highest)]
    fixed = [spread([rest / 1e6 for _, rest in each], ".1f") for each in (held, highest)]
    return [*slopes, *fixed]


def _line(case: Case, few: int, many: int) -> tuple[float, float]:
    slope = (many - few) / (case.many - case.few)
    return slope, few - slope * case.few


HEADER = (
    "tensors, arm",
    "KB a tensor, held",
    "KB a tensor, at its highest",
    "MB besides, held",
    "MB besides, at its highest",
)

GPT_HEADER = ("GPT of 25M parameters, arm", "MB held", "MB at its highest")


def main() -> int:
    """Measure, print, and write it down where asked to."""
    given = _arguments()
    if not Path("/proc/self/clear_refs").exists():
        print("memory is measured by Linux's /proc: not here", file=sys.stderr)
        return 2
    # Whatever ends us, the monitor ends with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tables: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="memory-") as folder:
            monitor = ChildMonitor(Path(folder))
            try:
                url = monitor.start().client.url
                wanted = given.part or [*CASES, GPT]
                found = [
                    row
                    for name, case in CASES.items()
                    if name in wanted
                    for row in rows(case, given.repeats, url, progress)
                ]
                tables += [table(HEADER, found)] if found else []
                if GPT in wanted:
                    gpt = gpt_rows(given.repeats, url, progress)
                    tables.append(table(GPT_HEADER, gpt))
            finally:
                monitor.stop()
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    shown, where = "\n\n".join(tables), machine("torch", "numpy")
    print(f"\n\n{shown}\n\n{where}")
    if given.write_docs and given.part:
        print("nothing is written: that takes all parts", file=sys.stderr)
    elif given.write_docs:
        write_part("memory", "\n\n".join([f"## Memory\n\n{INTRODUCTION}", where, shown]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--part",
        choices=[*CASES, GPT],
        action="append",
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        choices=range(1, 101),
        metavar="N",
        help="processes of each arm and number of tensors, 1 to 100 (default: 3)",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the table into docs/benchmarks.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
