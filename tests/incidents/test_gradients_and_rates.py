"""
Real faults of gradients, learning rates, steps and batches: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of
from tests.incidents.gradient_faults import FAULTS as GRADIENT_FAULTS
from tests.incidents.gradient_faults import floor_reached_too_soon
from tests.incidents.input_faults import FAULTS as INPUT_FAULTS
from tests.incidents.state_faults import StateFault
from trainvitals.contract import Contract
from trainvitals_monitor.findings import Severity

FAULTS = (*GRADIENT_FAULTS, *INPUT_FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_fault_is_found(fault: StateFault, tmp_path: Path) -> None:
    """Its detector warns of the onset, and nothing was said before it."""
    drive(fault, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    own = [one for one in loud if one.detector == fault.detector]
    assert own, [(one.detector, one.message) for one in loud]
    assert min(one.first_step for one in loud) >= fault.onset
    assert own[0].first_step - fault.onset <= 3
    assert any(fault.subject in fqn for fqn in own[0].subjects) or not fault.subject


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_healthy_twin_is_silent(
    fault: StateFault, budget: float | None, tmp_path: Path
) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(fault, healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]


@pytest.mark.parametrize("healthy", [False, True])
def test_a_floor_that_is_reached_too_soon_is_found_by_the_declared_steps(
    healthy: bool, tmp_path: Path
) -> None:
    """A quarter of them, with four microbatches in each; the twin takes all of them."""
    fault = StateFault("schedule-ended-early", 120, 30, "", floor_reached_too_soon)
    drive(fault, healthy, tmp_path, contract=Contract(total_steps=120))
    found = [
        (one.detector, one.first_step)
        for one in findings_of(tmp_path)
        if one.detector == fault.detector or one.severity is not Severity.INFO
    ]
    assert found == ([] if healthy else [("schedule-ended-early", 30)])
