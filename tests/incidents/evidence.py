"""
Trains a twin of a case without any monitor, and asks the case whether its fault is there.

As a program it is one rank of a twin in a process of its own, and prints the answer:

    python -m tests.incidents.evidence CASE faulty|healthy --corpus FOLDER --rank R --world-size N --store FILE
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from tests.incidents.drive import load_case


def is_there(case: Any, healthy: bool, rank: int = 0, world_size: int = 1) -> bool:
    """Whether the state of the run shows the fault after its last step."""
    run = case.build(healthy, rank, world_size)
    losses = [run.step(i) for i in range(case.META["steps"])]
    assert all(isinstance(loss, float) for loss in losses)
    return cast(bool, case.evidence(run))


def main() -> None:
    """One rank of one twin."""
    parser = argparse.ArgumentParser(description="Whether a case's fault is in a twin.")
    parser.add_argument("case")
    parser.add_argument("twin", choices=["faulty", "healthy"])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--store", required=True, help="a file through which the ranks meet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rank, world_size = arguments.rank, arguments.world_size
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{arguments.store}", rank=rank, world_size=world_size
    )
    case = load_case(arguments.case, arguments.corpus)
    sys.stdout.write(f"{is_there(case, arguments.twin == 'healthy', rank, world_size)}\n")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends


if __name__ == "__main__":
    main()
