"""
Real faults of saving, loading and resuming: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of
from tests.incidents.resume_faults import FAULTS
from tests.incidents.state_faults import StateFault
from trainvitals_monitor.findings import Severity

BUDGETS = [None, 0.005]


@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_what_a_resume_loses_is_found(fault: StateFault, tmp_path: Path) -> None:
    """Its detector warns of the first steps after the restart, and no other does."""
    drive(fault, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert {one.detector for one in loud} == {fault.detector}
    assert all(0 <= one.first_step - fault.onset <= 3 for one in loud)
    assert any(fault.subject in text for text in (*loud[0].subjects, loud[0].message))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_its_twin_is_silent(fault: StateFault, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(fault, healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]
