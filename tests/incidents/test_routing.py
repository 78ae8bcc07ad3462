"""
Real faults of routing: each is found by its detector, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import Case, drive, findings_of, load_case
from tests.incidents.routing_faults import FAULTS
from tests.incidents.state_faults import StateFault
from trainvitals_monitor.findings import Finding, Severity

COLLAPSE = "case_43_router_aux_loss_off"
MOE = {"expert-bias-drift", "expert-dead", "expert-load-imbalance", "router-collapse"}


def _loud(case: Case, healthy: bool, folder: Path, budget: float | None) -> list[Finding]:
    drive(case, healthy=healthy, folder=folder, budget=budget)
    return [one for one in findings_of(folder) if one.severity is not Severity.INFO]


@pytest.mark.parametrize("budget", [None, 0.005])
def test_a_balancing_loss_that_is_not_computed_is_found(
    budget: float | None, tmp_path: Path
) -> None:
    """The router collapses in a run of 80 steps; nothing else is said."""
    loud = _loud(load_case(COLLAPSE), healthy=False, folder=tmp_path, budget=budget)
    assert {one.detector for one in loud} == {"router-collapse"}
    assert loud[0].subjects == ["layers.0.feed_forward.tokens_per_expert"]


@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_a_small_trainer_with_a_fault_is_found(fault: StateFault, tmp_path: Path) -> None:
    """Its detector warns; what follows from it (starved experts) may be said too."""
    loud = _loud(fault, healthy=False, folder=tmp_path, budget=None)
    assert {one.detector for one in loud} <= MOE
    own = next(one for one in loud if one.detector == fault.detector)
    assert own.first_step - fault.onset <= 3
    assert any(fault.subject in fqn for fqn in own.subjects)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("case", [load_case(COLLAPSE), *FAULTS], ids=str)
def test_its_twin_is_silent(case: Case, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    loud = _loud(case, healthy=True, folder=tmp_path, budget=budget)
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]
