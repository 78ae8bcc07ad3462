"""
Trains cases of a corpus under the agent: each rank of each twin in a process of its own, frames to a folder.

These are forked from one process that has torch imported (tests/forked.py): that import alone takes as long as most of the
cases.
"""

from __future__ import annotations

from pathlib import Path

from tests.forked import run_ranks
from tests.incidents import drive

LIMIT_S = 300.0


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
    command = [name, twin, str(folder), "--budget", budget, "--corpus", str(corpus)]
    command += ["--seed", str(seed)]
    if world_size > 1:
        command += ["--world-size", str(world_size), "--store", str(folder / "store")]
    ranks = [([*command, "--rank", str(rank)],) for rank in range(world_size)]
    return [
        f"took longer than {LIMIT_S:.0f} s" if ended.status < 0 else ended.errors.strip()[-500:]
        for ended in run_ranks(drive.main, ranks, LIMIT_S)
        if ended.status
    ]
