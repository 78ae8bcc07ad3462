"""
Ranks' parts add up: what the monitor merges of a sharded run equals the same model trained alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e import sharded_trainer
from tests.forked import run_ranks
from trainvitals.frame import decode
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def train(mode: str, folder: Path, world_size: int) -> None:
    """Train in `world_size` processes, frames of all of them to the folder."""
    ranks = [
        (mode, str(folder), rank, world_size, str(folder / "store")) for rank in range(world_size)
    ]
    for ended in run_ranks(sharded_trainer.main, ranks, limit_s=120):
        assert ended.status == 0, ended.errors


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training alone, on two DDP ranks and on two FSDP2 ranks with uneven shards: where the frames are."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in ("alone", "ddp", "fsdp2")}
    for mode, folder in folders.items():
        train(mode, folder, world_size=1 if mode == "alone" else 2)
    return folders


@pytest.fixture(scope="module")
def runs(folders: dict[str, Path]) -> dict[str, Engine]:
    """What the monitor makes of them."""
    return {mode: engine for mode, folder in folders.items() for engine in replay(folder)}


FQNS = ("embedding.weight", "hidden.weight", "hidden.bias", "experts", "head.weight", "expert_bias")


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_norms_add_up(runs: dict[str, Engine], mode: str) -> None:
    """At each step the merged norms, update norms and gradient norms are those of the unsharded training."""
    for fqn in FQNS:
        for stat in ("norm", "update_norm", "grad_norm"):
            steps, alone = runs["alone"].series(fqn, stat)
            merged_steps, merged = runs[mode].series(fqn, stat)
            assert merged_steps.tolist() == steps.tolist(), (fqn, stat)
            np.testing.assert_allclose(merged, alone, rtol=1e-3, atol=1e-6, err_msg=f"{fqn} {stat}")


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_counts_add_up(runs: dict[str, Engine], mode: str) -> None:
    """As many elements are looked at over all shards as on one process."""
    for fqn in FQNS:
        _, alone = runs["alone"].series(fqn, "looked")
        _, merged = runs[mode].series(fqn, "looked")
        assert merged.tolist() == alone.tolist(), fqn


def first_digests(folder: Path, num_ranks: int) -> dict[str, tuple[int, int]]:
    """Digest and count per FQN of the state before the first step, summed over ranks (replicas counted once)."""
    sums: dict[str, tuple[int, int]] = {}
    fqns: dict[tuple[int, int], tuple[str, str]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        header, tables = decode(path.read_bytes())
        for info in header["tensors"]:
            fqns[header["rank"], info["index"]] = info["fqn"], info["layout"]
        rows = tables.get("digests")
        if rows is None:
            continue
        for i in np.flatnonzero(rows["step"] == 0):
            fqn, layout = fqns[header["rank"], int(rows["tensor"][i])]
            if layout in ("replica", "unknown") and header["rank"] > 0:
                continue
            digest, count = sums.get(fqn, (0, 0))
            sums[fqn] = (
                (digest + int(rows["digest"][i])) % 2**64,
                count + int(rows["count"][i]),
            )
    assert num_ranks == len({rank for rank, _ in fqns})
    return sums


def test_digests_add_up(folders: dict[str, Path]) -> None:
    """The initial state has bit for bit the same digests alone, replicated and in uneven shards."""
    alone = first_digests(folders["alone"], 1)
    assert set(FQNS) <= set(alone)
    assert first_digests(folders["ddp"], 2) == alone
    assert first_digests(folders["fsdp2"], 2) == alone


@pytest.mark.parametrize("mode", ["alone", "ddp", "fsdp2"])
def test_a_healthy_sharded_run_is_silent(runs: dict[str, Engine], mode: str) -> None:
    """No finding above info on sound runs."""
    loud = [f for f in runs[mode].findings if f.severity is not Severity.INFO]
    assert [f"{f.detector}: {f.message}" for f in loud] == []
