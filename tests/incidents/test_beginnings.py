"""
Parameters that begin wrong, decay wrongly or do not follow: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.beginning_faults import FAULTS
from tests.incidents.drive import drive, findings_of, load_case
from tests.incidents.state_faults import StateFault
from trainvitals_monitor.findings import Severity


@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_a_small_trainer_with_a_fault_is_found(fault: StateFault, tmp_path: Path) -> None:
    """Its detector warns of the onset; nothing else does, but for that of the gradients that follow from zeros."""
    drive(fault, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert {one.detector for one in loud} - {"gradient-zero"} == {fault.detector}
    own = next(one for one in loud if one.detector == fault.detector)
    assert 0 <= own.first_step - fault.onset <= 3
    assert any(fault.subject in fqn for fqn in own.subjects)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_its_twin_is_silent(fault: StateFault, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(fault, healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]


def test_decayed_gains_of_the_corpus_are_found(tmp_path: Path) -> None:
    """Names that the list of exemptions does not match; named from the first step on."""
    drive(load_case("case_34_weight_decay_on_norms"), healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert {one.detector for one in loud} == {"norm-collapse"}
    assert loud[0].first_step <= 1
    assert len(loud[0].subjects) == 3
