"""
Tensor parallelism, FSDP2 over it, and HSDP, on two and four ranks: what the ranks measure of their parts merges to the
unsharded facts, replicas that part are found, and of what nobody declares nothing is said.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e import mesh_trainer
from tests.e2e.mesh_trainer import PARTED_AT, STEPS
from tests.forked import run_ranks
from trainvitals.frame import decode
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.replay import replay

JOBS = {
    1: "alone",
    2: "tensor_parallel,hand_cut",
    4: "fsdp_and_tensor_parallel,hybrid,hybrid_that_parts",
}
SOUND = ("tensor_parallel", "fsdp_and_tensor_parallel", "hybrid")
CUT = ("up.weight", "up.bias", "down.weight")
FQNS = ("norm.weight", "norm.bias", *CUT, "head.weight", "head.bias")
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the frames of all jobs are."""
    folder = tmp_path_factory.mktemp("meshes")
    for world_size, modes in JOBS.items():
        store = str(folder / f"store{world_size}")
        ranks = [(modes, str(folder), rank, world_size, store) for rank in range(world_size)]
        for ended in run_ranks(mesh_trainer.main, ranks, limit_s=200):
            assert ended.status == 0, ended.errors[-4000:]
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Engine]:
    """What the monitor makes of each."""
    modes = ",".join(JOBS.values()).split(",")
    return {mode: engine for mode in modes for engine in replay(folder / mode)}


def series(engine: Engine, fqn: str, stat: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Merged over ranks, at each step."""
    steps, values = engine.series(fqn, stat)
    assert steps.tolist() == list(range(1, STEPS + 1)), (fqn, stat)
    return values


@pytest.mark.parametrize("mode", SOUND)
@pytest.mark.parametrize("stat", ["norm", "update_norm", "grad_norm", "looked"])
def test_parts_add_up(runs: dict[str, Engine], mode: str, stat: str) -> None:
    """Norms, update norms and gradient norms are those of one process, from as many elements."""
    fqns = CUT if mode == "tensor_parallel" else FQNS
    for fqn in fqns:
        merged, alone = series(runs[mode], fqn, stat), series(runs["alone"], fqn, stat)
        np.testing.assert_allclose(merged, alone, rtol=2e-3, atol=1e-6, err_msg=f"{fqn} {stat}")


@pytest.mark.parametrize("mode", SOUND)
def test_digests_add_up(folder: Path, mode: str) -> None:
    """The initial state has bit for bit the digests that it has in one process; equal parts are counted once."""
    merged, alone = first_digests(folder / mode), first_digests(folder / "alone")
    assert set(alone) == set(FQNS)
    assert merged == alone


def first_digests(frames: Path) -> dict[str, tuple[int, int]]:
    """Digest and count per FQN before the first step, summed over the parts that ranks hold."""
    parts: dict[tuple[str, tuple[int, ...], tuple[int, ...]], tuple[int, int]] = {}
    tables = [decode(path.read_bytes()) for path in sorted(frames.rglob("*.safetensors"))]
    infos = {(h["rank"], each["index"]): each for h, _ in tables for each in h["tensors"]}
    for header, columns in tables:
        rows = columns.get("digests", {"step": np.zeros(0)})
        for i in np.flatnonzero(rows["step"] == 0):
            info = infos[header["rank"], int(rows["tensor"][i])]
            part = info["fqn"], tuple(info["offsets"]), tuple(info["sizes"])
            found = int(rows["digest"][i]), int(rows["count"][i])
            assert parts.setdefault(part, found) == found
    sums: dict[str, tuple[int, int]] = {}
    for (fqn, *_), (digest, count) in parts.items():
        before = sums.get(fqn, (0, 0))
        sums[fqn] = (before[0] + digest) % 2**64, before[1] + count
    return sums


def loud(engine: Engine) -> list[Finding]:
    """Findings above info."""
    return [each for each in engine.findings if each.severity is not Severity.INFO]


@pytest.mark.parametrize("mode", ["alone", *SOUND, "hand_cut"])
def test_sound_runs_are_silent(runs: dict[str, Engine], mode: str) -> None:
    """Nothing above info, where all is declared and where nothing is."""
    assert [f"{each.detector}: {each.message}" for each in loud(runs[mode])] == []


def test_a_replica_that_parts_is_named(runs: dict[str, Engine]) -> None:
    """One rank of four changes its part: found at the next step, in this tensor, in its pair of ranks."""
    findings = loud(runs["hybrid_that_parts"])
    assert [each.detector for each in findings] == ["replica-divergence"]
    assert findings[0].subjects == ["up.weight"]
    assert findings[0].first_step == PARTED_AT
    assert "rank 3" in findings[0].message
    assert "rank 1" in findings[0].message


def test_what_nobody_declares_is_no_data(folder: Path, runs: dict[str, Engine]) -> None:
    """Plain tensors of equal names in a job of several ranks are of unknown layout: no rank's part stands for all."""
    frames = sorted((folder / "hand_cut").rglob("*.safetensors"))
    kinds = {each["layout"] for path in frames for each in decode(path.read_bytes())[0]["tensors"]}
    assert kinds == {"unknown"}
    norm = series(runs["hand_cut"], "up.weight", "norm")
    assert not np.allclose(norm, series(runs["alone"], "up.weight", "norm"), rtol=1e-2)
