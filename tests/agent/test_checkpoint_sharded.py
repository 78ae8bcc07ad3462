"""
Saves and loads of a model that two processes share (FSDP2, uneven shards): each rank speaks for its part.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.forked import run_ranks
from trainvitals.frame import CheckpointSeen
from trainvitals.probes.checkpoint import Checkpoints
from trainvitals.record import Record
from trainvitals.slots import SlotTable

MODULUS = 1 << 64


def make() -> nn.Sequential:
    """A large matrix with an odd number of rows, and small tensors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(90, 101), nn.Linear(101, 3))


def manifests(record: Record) -> list[dict[str, Any]]:
    """Saves and loads as plain data: numbers by canonical name of the live tensor."""
    tables, events, _ = record.take()
    rows: dict[str, Any] = {"checkpoint": [], **tables.get("manifest", {})}
    found = []
    for event in (e for e in events if isinstance(e, CheckpointSeen)):
        numbers = {}
        for row, number in enumerate(rows["checkpoint"]):
            if number == event.number:
                key = event.live_keys[rows["entry"][row]]
                columns = ("digest", "count", "live_digest")
                numbers[key] = {name: int(rows[name][row]) for name in columns}
        found.append({"api": event.api, "op": event.op, "foreign": event.foreign, "rows": numbers})
    return found


def save_and_load(model: nn.Module, folder: Path, *, full: bool) -> list[dict[str, Any]]:
    """A sharded save, its load, and a gathered one; seen by a probe."""
    record = Record(1 << 24)
    probe = Checkpoints(SlotTable([model], world_size=2 if full else 1), record, lambda: 0)
    probe.start()
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "dcp")
    dcp.load({"model": model.state_dict()}, checkpoint_id=folder / "dcp")
    if full:
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        torch.save(state, folder / f"full{dist.get_rank()}.pt")
    probe.close()
    return manifests(record)


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_shards_add_up_to_the_unsharded_manifest(tmp_path: Path) -> None:
    """Digests of two ranks' parts sum to those of one process, saved and live; a gathered save is cut to the part."""
    ranks = [(rank, str(tmp_path / "store"), tmp_path) for rank in range(2)]
    for ended in run_ranks(main, ranks, limit_s=120):
        assert ended.status == 0, ended.errors
    alone = save_and_load(make(), tmp_path / "alone", full=False)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for kind in range(2):  # the save, and the load
        one = alone[kind]["rows"]
        parts = first[kind]["rows"], second[kind]["rows"]
        assert first[kind]["api"] == alone[kind]["api"]
        assert not first[kind]["foreign"]
        assert set(one) == set(parts[0]) == set(parts[1]) == set(make().state_dict())
        for key, row in one.items():
            for name, whole in row.items():
                assert sum(part[key][name] for part in parts) % MODULUS == whole, (key, name)
    for rank in (first, second):
        assert rank[2]["api"] == "torch.save"
        assert rank[2]["rows"] == rank[0]["rows"]


def main(rank: int, store: str, folder: Path) -> None:
    """One rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = make()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    seen = save_and_load(model, folder, full=True)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    # gloo sometimes aborts while the interpreter is torn down
    os._exit(0)
