"""
Real faults between two ranks under real DDP and hand-made reductions: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forked import run_ranks
from tests.incidents.drive import findings_of
from tests.incidents.rank_faults import FAULTS as RANK_FAULTS
from tests.incidents.rank_faults import WORLD_SIZE, RankFault, train_rank
from trainvitals_monitor.findings import Finding, Severity

FAULTY = [fault for fault in RANK_FAULTS if fault.detector]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def train(fault: RankFault, healthy: bool, folder: Path, budget: float | None = None) -> None:
    """Both ranks, each in a process of its own."""
    twin = (str(fault), healthy, folder / "frames", folder / "store", budget)
    for ended in run_ranks(train_rank, [(*twin, rank) for rank in range(WORLD_SIZE)], limit_s=120):
        assert ended.status == 0, ended.errors


def loud(folder: Path) -> list[Finding]:
    """What is above info."""
    found = findings_of(folder / "frames")
    return [finding for finding in found if finding.severity is not Severity.INFO]


@pytest.mark.parametrize("fault", FAULTY, ids=str)
def test_a_fault_between_ranks_is_found(fault: RankFault, tmp_path: Path) -> None:
    """Its detector warns of the onset, and names the ranks; nothing else does."""
    train(fault, False, tmp_path)
    found = loud(tmp_path)
    assert {one.detector for one in found} == {fault.detector}
    assert 0 <= found[0].first_step - fault.onset <= fault.within
    assert found[0].ranks or not found[0].subjects


@pytest.mark.parametrize("fault", [*RANK_FAULTS], ids=str)
def test_its_twin_is_silent(fault: RankFault, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info; some of them under the default budget."""
    train(fault, True, tmp_path, budget=0.005 if fault.META["steps"] == 60 else None)
    assert not [(one.detector, one.subjects[:2], one.message) for one in loud(tmp_path)]
