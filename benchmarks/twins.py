"""
Trains cases of a corpus under the agent: each rank of each twin in a process of its own, frames to a folder.

These are forked from one process that has torch imported: that import alone takes as long as most of the cases.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from tests.incidents import drive

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300.0

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["__main__", "torch", "torch.distributed", "tests.incidents.drive"])


def train(
    name: str,
    twin: str,
    folder: Path,
    corpus: Path,
    budget: str,
    world_size: int,
    seed: int = 0,
) -> list[str]:
    """Every rank of a twin of the case of this name; what went wrong with them. `seed`: 0 is the case as written."""
    _prepare()
    command = [name, twin, str(folder), "--budget", budget, "--corpus", str(corpus)]
    command += ["--seed", str(seed)]
    if world_size > 1:
        command += ["--world-size", str(world_size), "--store", str(folder / "store")]
    said = [folder.with_name(f"{folder.name}-{rank}.txt") for rank in range(world_size)]
    ranks = [
        _FORKING.Process(target=_train_rank, args=([*command, "--rank", str(rank)], rank, file))
        for rank, file in enumerate(said)
    ]
    for process in ranks:
        process.start()
    errors = []
    for process, file in zip(ranks, said, strict=True):
        process.join(LIMIT_S)
        if process.is_alive():
            process.kill()
            process.join()
        if process.exitcode:
            late = f"took longer than {LIMIT_S:.0f} s" if process.exitcode < 0 else ""
            errors.append((late or file.read_text()).strip()[-500:])
        file.unlink(missing_ok=True)
    return errors


def _train_rank(command: list[str], rank: int, said: Path) -> None:
    """In the rank's process; what it says goes to the file."""
    os.environ["LOCAL_RANK"] = str(rank)
    with said.open("w") as file, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(file.fileno(), 2)
        drive.main(command)


def _prepare() -> None:
    """The environment that the forking process starts with, at the first call."""
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(part for part in path if part))
    # Several processes that each spin on every core take ten times as long.
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1")
