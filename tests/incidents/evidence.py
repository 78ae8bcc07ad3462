"""
Trains a twin of a case without any monitor, and asks the case whether its fault is there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from tests.incidents.drive import load_case


def is_there(case: Any, healthy: bool, rank: int = 0, world_size: int = 1) -> bool:
    """Whether the state of the run shows the fault after its last step."""
    run = case.build(healthy, rank, world_size)
    losses = [run.step(i) for i in range(case.META["steps"])]
    assert all(isinstance(loss, float) for loss in losses)
    return cast(bool, case.evidence(run))


def answer_of_rank(
    name: str, corpus: Path, healthy: bool, rank: int, world_size: int, store: Path
) -> None:
    """One rank of one twin, in a process of its own; it writes the answer. `store`: a file through which the ranks meet."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    sys.stdout.write(f"{is_there(load_case(name, corpus), healthy, rank, world_size)}\n")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends
