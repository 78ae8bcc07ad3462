"""
Arms of a comparison that train in lock-step: each in a process of its own, one step at a time, taking turns.

A machine gets slower and faster while one measures. Arms that run one after the other measure that; arms that take
turns, in an order drawn anew for every other turn and reversed for the one after it, meet it alike, and their ratios
within a block of turns are free of it. What an arm does between its turns (a thread that sends) is counted as its own,
as is what its child processes do.

Equal arms can differ all the same, for as long as they run: glibc gives large blocks back to the system at each step, or
keeps them, by where small objects happen to lie, and a block that is taken anew is paid for page by page. So all arms
keep what they have freed, but where `keeps_freed` says no.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

_END_S = 20.0
_KEEPS_FREED = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 40)}
"""glibc's, read by a process when it starts; other systems know nothing of it."""


class Trainee(Protocol):
    """What an arm trains."""

    def step(self) -> None:
        """One optimizer step, with whatever this arm does besides."""

    def told(self) -> str:
        """What it has to say of itself at the end; may be empty."""

    def close(self) -> None:
        """Give back what was attached; not measured."""


@dataclass(frozen=True)
class Arm:
    """`make` is called in the arm's process, and must be picklable: a function of a module, or a partial of one."""

    name: str
    make: Callable[[], Trainee]


@dataclass(frozen=True)
class Memory:
    """
    Bytes of a process: resident with shared pages in proportion, without the pages of files, and the most that was
    resident.
    """

    proportional: int
    anonymous: int
    peak: int


@dataclass
class Measured:
    """
    Of each turn: CPU seconds of the process, all its threads and children until the next turn, and page faults of the
    process; wall seconds of the turn itself.
    """

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    memory: Memory = Memory(0, 0, 0)
    told: str = ""


def blocks(figures: Sequence[float], size: int) -> list[float]:
    """Sums over so many turns each; turns that fill no block are left out."""
    return [sum(figures[k : k + size]) for k in range(0, len(figures) - size + 1, size)]


class Lockstep:
    """The arms' processes; a context manager, for they end with it."""

    def __init__(self, arms: Sequence[Arm], *, keeps_freed: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        self._pids: dict[str, int] = {}
        with _environment(_KEEPS_FREED if keeps_freed else {}):
            for arm in arms:
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, arm), daemon=True)
                process.start()
                theirs.close()
                self._pipes[arm.name] = ours
                self._processes.append(process)
                assert process.pid is not None
                self._pids[arm.name] = process.pid

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe, process in zip(self._pipes.values(), self._processes, strict=True):
            if error is None:
                pipe.send("end")
            else:
                process.terminate()
        for process in self._processes:
            process.join(_END_S)
            if process.is_alive():
                process.kill()

    def run(
        self, warm_up: int, turns: int, told: Callable[[int], None] = lambda _: None
    ) -> dict[str, Measured]:
        """So many turns of every arm after `warm_up` that do not count; `told(turn)` hears of each."""
        found = {name: Measured() for name in self._pipes}
        marks: dict[str, list[tuple[float, int]]] = {name: [] for name in self._pipes}
        drawn, order = random.Random(0), list(self._pipes)
        for turn in range(warm_up + turns):
            if turn % 2:
                order.reverse()
            else:
                drawn.shuffle(order)
            for name in order:
                children = self._cpu_of_children(name)
                (cpu_s, faults), wall_s = self._ask(name, "step")
                if turn >= warm_up:
                    marks[name].append((cpu_s + children, faults))
                    found[name].wall_s.append(wall_s)
            told(turn)
        for name, measured in found.items():
            children = self._cpu_of_children(name)
            cpu_s, faults = self._ask(name, "mark")[0]
            marks[name].append((cpu_s + children, faults))
            measured.cpu_s = [after[0] - before[0] for before, after in pairwise(marks[name])]
            measured.faults = [after[1] - before[1] for before, after in pairwise(marks[name])]
            measured.memory, measured.told = self._ask(name, "end state")
        return found

    def _ask(self, name: str, what: str) -> Any:
        try:
            self._pipes[name].send(what)
            return self._pipes[name].recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the arm {name!r} has ended; what it said stands above") from error

    def _cpu_of_children(self, name: str) -> float:
        """Those that live; asked for here, so that it does not count as the arm's."""
        parents = _parents()
        found = {self._pids[name]}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return sum(cpu_seconds_of(child) for child in found - {self._pids[name]})


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started meanwhile find in theirs."""
    outside = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in outside.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- in the arm's process ----------------------------------------------------------------------------------------------


def _work(pipe: Connection, arm: Arm) -> None:
    """Do as asked until the end; Ctrl-C is for the one who asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainee = arm.make()
    try:
        while (asked := pipe.recv()) != "end":
            if asked == "end state":
                pipe.send((memory_now(), trainee.told()))
                continue
            mark, started = _so_far(), time.perf_counter()
            if asked == "step":
                trainee.step()
            pipe.send((mark, time.perf_counter() - started))
    except EOFError:  # nobody asks any more
        os._exit(1)
    trainee.close()


def _so_far() -> tuple[float, int]:
    """CPU time of this process, all its threads, and its children that have ended; page faults of this process."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return time.process_time() + ended.ru_utime + ended.ru_stime, faults


def memory_now() -> Memory:
    """Of the process that asks, as Linux counts it."""
    figures: dict[str, int] = {}
    for name in ("smaps_rollup", "status"):
        for line in Path(f"/proc/self/{name}").read_text().splitlines():
            key, _, rest = line.partition(":")
            if rest.endswith("kB"):
                figures.setdefault(key, 1024 * int(rest.split()[0]))
    return Memory(figures["Pss"], figures["Anonymous"], figures["VmHWM"])


# -- of any process ----------------------------------------------------------------------------------------------------


def cpu_seconds_of(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system; 0 if it is gone. In steps of 10 ms."""
    fields = _stat(str(pid))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _parents() -> dict[int, int]:
    """Of every process that lives, by its id."""
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    return {int(pid): int(fields[1]) for pid in pids if (fields := _stat(pid))}


def _stat(pid: str) -> list[str]:
    """What follows the name in /proc/PID/stat: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
