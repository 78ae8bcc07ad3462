"""
Pipeline parallelism on two ranks: each stage's tensors are watched under their own names, and nothing is made up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import pipeline_trainer
from tests.e2e.pipeline_trainer import SCHEDULES, STEPS
from tests.forked import run_ranks
from trainvitals.frame import decode
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the frames of all schedules are; one pair of processes runs them all."""
    folder = tmp_path_factory.mktemp("pipeline")
    names, store = ",".join(SCHEDULES), str(folder / "store")
    ranks = [(names, str(folder), rank, store) for rank in range(2)]
    for ended in run_ranks(pipeline_trainer.main, ranks, limit_s=200):
        assert ended.status == 0, ended.errors[-4000:]
    return folder


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_stages_are_watched(folder: Path, name: str) -> None:
    """A tensor of either stage has a row at each step, each rank says which stage it is, and nothing is found."""
    (engine,) = replay(folder / name)
    for fqn in ("layers.0.inner.weight", "layers.3.inner.weight", "head.weight"):
        for stat in ("update_norm", "grad_norm"):
            steps, values = engine.series(fqn, stat)
            assert steps.tolist() == list(range(1, STEPS + 1)), (fqn, stat)
            assert (values > 0).all(), (fqn, stat)
    assert [one.message for one in engine.findings if one.severity is not Severity.INFO] == []
    headers = [decode(path.read_bytes())[0] for path in (folder / name).rglob("*.safetensors")]
    assert {header["mesh"] for header in headers} == {"pp=0/2", "pp=1/2"}
