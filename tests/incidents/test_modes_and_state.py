"""
Real faults of modes, running statistics, ties, gradients and optimizer state: each is found, its twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of, load_case
from tests.incidents.state_faults import FAULTS as STATE_FAULTS
from tests.incidents.state_faults import StateFault
from trainvitals_monitor.findings import Severity

# case, detector, a part of the wrong tensor's name, steps from onset within which it must be found
FAULTS = [
    ("case_24_clip_before_unscale", "gradient-clipped-away", "", 2),
    ("case_37_missing_zero_grad", "gradient-not-cleared", "conv1", 3),
    ("case_17_assign_load_breaks_tie", "tied-weights-broken", "output.weight", 2),
    ("case_26_moments_dropped_on_resume", "optimizer-state-reset", "body", 2),
    ("case_28_ema_teacher_bn_stale", "buffer-stuck", "teacher.bn1", 2),
    ("case_31_eval_mode_forever", "eval-mode-in-training", "conv1", 2),
]


@pytest.mark.parametrize(("name", "detector", "subject", "within"), FAULTS)
def test_the_fault_is_found(
    name: str, detector: str, subject: str, within: int, tmp_path: Path
) -> None:
    """The detector names the tensor, the first wrong step is near the onset and not before it."""
    case = load_case(name)
    drive(case, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    # Gradients that are clipped away make steps that are next to nothing.
    assert {one.detector for one in loud} - {"update-ratio-out-of-range"} == {detector}
    own = next(one for one in loud if one.detector == detector)
    late = own.first_step - case.META["bug_step"]
    assert 0 <= late <= within
    assert any(subject in fqn for fqn in own.subjects)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("name", [fault[0] for fault in FAULTS])
def test_the_healthy_twin_is_silent(name: str, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(load_case(name), healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]


@pytest.mark.parametrize("fault", [*STATE_FAULTS], ids=str)
def test_a_small_trainer_with_a_fault_is_found(fault: StateFault, tmp_path: Path) -> None:
    """Its detector warns of the onset; nothing else does, but for that of slots, which sees the same replacement."""
    drive(fault, healthy=False, folder=tmp_path, budget=None)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert {one.detector for one in loud} - {"slot-replaced"} == {fault.detector}
    own = next(one for one in loud if one.detector == fault.detector)
    assert 0 <= own.first_step - fault.onset <= 3
    assert any(fault.subject in fqn for fqn in own.subjects)


@pytest.mark.parametrize("budget", [None, 0.005])
@pytest.mark.parametrize("fault", [*STATE_FAULTS], ids=str)
def test_its_twin_is_silent(fault: StateFault, budget: float | None, tmp_path: Path) -> None:
    """The same trainer without the fault gives nothing above info."""
    drive(fault, healthy=True, folder=tmp_path, budget=budget)
    loud = [one for one in findings_of(tmp_path) if one.severity is not Severity.INFO]
    assert not loud, [(one.detector, one.subjects[:2], one.message) for one in loud]
