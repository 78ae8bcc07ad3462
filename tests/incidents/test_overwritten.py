"""
Weights that were put into the model for a save: found where they stay, and nothing is said where that was meant.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of
from tests.incidents.overwriting_faults import FAULTS, SOUND
from tests.incidents.state_faults import StateFault
from trainvitals_monitor.findings import Severity


@pytest.mark.parametrize("fault", [*FAULTS], ids=str)
def test_an_average_that_stays_is_found(fault: StateFault, tmp_path: Path) -> None:
    """At the save that it was put in for."""
    drive(fault, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert [(one.detector, one.first_step) for one in loud] == [(fault.detector, fault.onset)]
    assert any(fault.subject in fqn for fqn in loud[0].subjects)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("run", [*FAULTS, *SOUND], ids=str)
def test_what_is_sound_is_silent(run: StateFault, budget: float | None, tmp_path: Path) -> None:
    """Swapped back, and other changes of weights by hand that are meant."""
    drive(run, healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]
