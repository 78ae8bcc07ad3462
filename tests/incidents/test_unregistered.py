"""
Layers and statistics that no module has registered: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of
from tests.incidents.state_faults import StateFault
from tests.incidents.unregistered_faults import FAULTS
from trainvitals_monitor.findings import Severity


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_a_small_trainer_with_a_fault_is_found(
    fault: StateFault, budget: float | None, tmp_path: Path
) -> None:
    """The detector warns from the onset on, and nothing else does."""
    drive(fault, healthy=False, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert {one.detector for one in loud} == {fault.detector}
    assert 0 <= loud[0].first_step - fault.onset <= 3
    assert loud[0].message.startswith(fault.subject)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_its_twin_is_silent(fault: StateFault, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(fault, healthy=True, folder=tmp_path, budget=budget)
    found = findings_of(tmp_path)
    loud = [one for one in found if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]
    assert "tensor-unregistered" not in {one.detector for one in found}
