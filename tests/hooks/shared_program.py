"""
One rank of the hook matrix on several: runs every row alone and attached, and writes what was wrong with each.

    python -m tests.hooks.shared_program FOLDER RANK WORLD_SIZE
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from tests.hooks.footprint import changed
from tests.hooks.running import Row, check, run_alone, run_attached
from tests.hooks.shared_rows import SHARED_ROWS


def main(folder: Path, rank: int, world_size: int, only: str = "") -> None:
    """Rows in order, in step with the other ranks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    rows = [row for row in SHARED_ROWS if only in row.name]
    wrong = {row.name: _wrong_with(row, folder / f"rank{rank}" / row.name) for row in rows}
    (folder / f"{rank}.json").write_text(json.dumps(wrong))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort while the interpreter ends


def _wrong_with(row: Row, folder: Path) -> str:
    alone, attached = run_alone(row, folder / "alone"), run_attached(row, folder / "attached")
    try:
        check(row, alone, attached)
    except AssertionError:
        told = alone.counters, attached.counters, attached.coverage["failures"], attached.steps
        left = changed(attached.before, attached.after)
        return f"{traceback.format_exc()}\n{told}\n{attached.different(alone)}\n{left}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
