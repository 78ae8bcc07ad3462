"""
Runs a case of the corpus under the agent, as a trainer would, and asks the monitor's engine what it found.

As a program it is one rank of one twin, in a process of its own:

    python -m tests.incidents.drive CASE faulty|healthy FOLDER [--budget none|default|SHARE] [--corpus FOLDER]
        [--rank R --world-size N --store FILE] [--seed N]
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist

import trainvitals
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.replay import replay

CORPUS = Path(__file__).parent / "corpus"


class Case(Protocol):
    """A module of the corpus, or a run made elsewhere: what it is called, how long it is, and how to begin it."""

    META: dict[str, Any]

    def build(self, healthy: bool, rank: int, world_size: int) -> Any:
        """The trainer: `model`, `optimizer`, `step`, `generation` and `extra`."""


def load_case(name: str, corpus: Path = CORPUS, seed: int = 0) -> Case:
    """A module of a corpus; the cases of all of them import the first one's `common`. Seed 0: the case as it is written."""
    for folder in (CORPUS, corpus):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if seed:
        _sow(seed)
    return cast(Case, importlib.import_module(name))


def _sow(seed: int) -> None:
    """Other first weights and other data for the cases that are imported from now on: all of them ask `common` for both."""
    common: Any = importlib.import_module("common")
    seed_all, gen = common.seed_all, common.gen
    common.seed_all = lambda own=0: seed_all(own + 100_000 * seed)
    common.gen = lambda *key: gen(*key, seed)


def drive(
    case: Case,
    healthy: bool,
    folder: Path,
    rank: int = 0,
    world_size: int = 1,
    **settings: Any,
) -> None:
    """
    One rank's run of one twin, frames to the folder. The agent is attached again when the trainer has re-made its
    objects, as a restarted process would; loss and step are logged as most trainers do.
    """
    run = case.build(healthy, rank, world_size)
    attach = {
        "run": f"{case.META['id']}-{folder.name}",
        "monitor": str(folder),
        "quiet": True,
        **settings,
    }
    agent = trainvitals.attach(run.model, _optimizers(run), **attach)
    generation = run.generation
    for i in range(case.META["steps"]):
        loss = run.step(i)
        if run.generation != generation:
            generation = run.generation
            agent.close()
            agent = trainvitals.attach(run.model, _optimizers(run), step=i + 1, **attach)
        agent.log(step=i, loss=loss)
    agent.close()


def findings_of(folder: Path) -> list[Finding]:
    """Every finding that was ever opened on these frames, worst and earliest first."""
    found = [finding for engine in replay(folder) for finding in engine.findings]
    return sorted(found, key=lambda finding: (finding.severity.rank, finding.first_step))


def _optimizers(run: Any) -> Any:
    return run.extra.get("optimizers") or run.optimizer


def main(command: Sequence[str] | None = None) -> None:
    """One rank of one twin; `command`: in the place of the command line."""
    arguments = _arguments(command)
    torch.set_num_threads(1)
    budget = {"none": {"budget": None}, "default": {}}.get(
        arguments.budget, {"budget": arguments.budget}
    )
    rank, world_size = arguments.rank, arguments.world_size
    if world_size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo", init_method=f"file://{arguments.store}", rank=rank, world_size=world_size
        )
    case = load_case(arguments.case, arguments.corpus, arguments.seed)
    drive(case, arguments.twin == "healthy", arguments.folder, rank, world_size, **budget)
    if world_size > 1:
        dist.barrier()
        sys.stdout.flush()
        os._exit(0)  # gloo's threads sometimes abort while the interpreter ends


def _arguments(command: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one twin of a case under the agent.")
    parser.add_argument("case")
    parser.add_argument("twin", choices=["faulty", "healthy"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", default="none")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--store", help="a file through which the ranks meet")
    parser.add_argument("--seed", type=int, default=0, help="0: the case as it is written")
    return parser.parse_args(command)


if __name__ == "__main__":
    main()
