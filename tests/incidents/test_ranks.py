"""
Real faults between two ranks under real DDP and hand-made reductions: each is found, its twin is silent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.incidents.drive import findings_of
from tests.incidents.rank_faults import FAULTS as RANK_FAULTS
from tests.incidents.rank_faults import WORLD_SIZE, RankFault
from trainvitals_monitor.findings import Finding, Severity

ROOT = Path(__file__).parents[2]
FAULTY = [fault for fault in RANK_FAULTS if fault.detector]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def train(fault: RankFault, twin: str, folder: Path, *budget: str) -> None:
    """Both ranks, each in a process of its own."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.incidents.rank_faults", str(fault), twin]
    ranks = [
        subprocess.Popen(
            [*command, str(folder / "frames"), str(rank), str(folder / "store"), *budget],
            env=environ,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=120)
        assert rank.returncode == 0, errors


def loud(folder: Path) -> list[Finding]:
    """What is above info."""
    found = findings_of(folder / "frames")
    return [finding for finding in found if finding.severity is not Severity.INFO]


@pytest.mark.parametrize("fault", FAULTY, ids=str)
def test_a_fault_between_ranks_is_found(fault: RankFault, tmp_path: Path) -> None:
    """Its detector warns of the onset, and names the ranks; nothing else does."""
    train(fault, "faulty", tmp_path)
    found = loud(tmp_path)
    assert {one.detector for one in found} == {fault.detector}
    assert 0 <= found[0].first_step - fault.onset <= fault.within
    assert found[0].ranks or not found[0].subjects


@pytest.mark.parametrize("fault", [*RANK_FAULTS], ids=str)
def test_its_twin_is_silent(fault: RankFault, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info; some of them under the default budget."""
    budget = ("0.005",) if fault.META["steps"] == 60 else ()
    train(fault, "healthy", tmp_path, *budget)
    assert not [(one.detector, one.subjects[:2], one.message) for one in loud(tmp_path)]
