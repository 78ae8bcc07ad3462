"""
Trainings in processes of their own that need not import torch first: forked from one that has, and that has no thread.

A fresh interpreter takes nearly four seconds to import torch, Dynamo and the agent, which is longer than most of the small
trainings take. Where the start itself is what a test is about, it starts an interpreter.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_FORKING = get_context("forkserver")
_FORKING.set_forkserver_preload(["__main__", "tests.warm"])
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """How a process ended (below 0: by a signal, as it is where it was killed at the limit), and what it wrote."""

    status: int
    out: str
    errors: str


def run_ranks(
    work: Callable[..., object], ranks: Sequence[tuple[Any, ...]], limit_s: float
) -> list[Ended]:
    """
    `work(*arguments)` in a process for each rank's arguments, all at once, with this process's environment and LOCAL_RANK, gloo on the loopback;
    what still runs when one was waited for so long is killed.
    """
    _start()
    own = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        said = [
            [Path(folder, f"{rank}.{kind}") for kind in ("out", "err")]
            for rank in range(len(ranks))
        ]
        processes = [
            _FORKING.Process(
                target=_be,
                args=({**own, "LOCAL_RANK": str(rank)}, said[rank], work, arguments),
            )
            for rank, arguments in enumerate(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(limit_s)
            if process.is_alive():
                process.kill()
                process.join()
        statuses = [process.exitcode for process in processes]
        assert None not in statuses, statuses
        return [
            Ended(
                process.exitcode or 0,
                *(file.read_text() if file.exists() else "" for file in files),
            )
            for process, files in zip(processes, said, strict=True)
        ]


def _be(
    environ: dict[str, str],
    files: Sequence[Path],
    work: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    """In the rank's process."""
    os.environ.clear()
    os.environ.update(environ)
    for descriptor, path in enumerate(files, start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    work(*arguments)


def _start() -> None:
    """
    The process to fork from, if it isn't there. Its environment says where modules are, and that threads are not to
    spin: several processes that each spin on every core take ten times as long.
    """
    with _STARTING:
        own = {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, sys.path)])),
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": "1",
        }
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
