"""
Master weights, flat shards and partitions of the optimizer, on two ranks: sound trainings are silent, and what can't be
known of them is said.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import flat_trainer
from tests.e2e.flat_trainer import MODES, STEPS
from tests.forked import run_ranks
from trainvitals.frame import decode
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

WORLD_SIZE = 2
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the frames of all modes are; one pair of processes trains them all."""
    folder = tmp_path_factory.mktemp("flat")
    modes, store = ",".join(MODES), str(folder / "store")
    ranks = [(modes, str(folder), rank, WORLD_SIZE, store) for rank in range(WORLD_SIZE)]
    for ended in run_ranks(flat_trainer.main, ranks, limit_s=200):
        assert ended.status == 0, ended.errors[-4000:]
    return folder


def judged(folder: Path, mode: str) -> Engine:
    """What the monitor makes of it."""
    (engine,) = replay(folder / mode)
    return engine


@pytest.mark.parametrize("mode", MODES)
def test_a_sound_training_is_silent(folder: Path, mode: str) -> None:
    """No finding above info, and no parameter said to be without optimizer or gradient."""
    findings = judged(folder, mode).findings
    assert [f"{f.detector}: {f.message}" for f in findings if f.severity is not Severity.INFO] == []
    accused = {"parameter-not-in-optimizer", "gradient-missing"} & {f.detector for f in findings}
    assert accused == set()


@pytest.mark.parametrize("mode", ["masters", "sharded_masters", "zero_redundancy"])
def test_updates_are_seen(folder: Path, mode: str) -> None:
    """
    Through masters and partitions a matrix is seen to move at each step, with its gradient. Masters are written back
    after the optimizer's step and its hooks, so each movement is seen at the step after.
    """
    engine = judged(folder, mode)
    late = int("masters" in mode)
    for stat, begins in (("update_norm", late), ("grad_norm", 0)):
        steps, values = engine.series("1.weight", stat)
        assert steps.tolist() == list(range(1, STEPS + 1)), stat
        assert (values[:begins] == 0).all(), stat
        assert (values[begins:] > 0).all(), stat


@pytest.mark.parametrize("mode", ["fsdp1", "fsdp1_flat", "sharded_masters", "flat_partition"])
def test_layouts_that_nobody_declares(folder: Path, mode: str) -> None:
    """Flat shards and plain tensors of several ranks are of unknown layout: no rank's part stands for all."""
    frames = sorted((folder / mode).rglob("*.safetensors"))
    kinds = {each["layout"] for path in frames for each in decode(path.read_bytes())[0]["tensors"]}
    assert kinds == {"unknown"}
