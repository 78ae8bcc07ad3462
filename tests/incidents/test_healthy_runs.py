"""
Trainings in which nothing is wrong, long ones and strange ones: nothing above info is said about any of them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.incidents.drive import drive
from tests.incidents.healthy_runs import (
    long_runs,
    strange_attributes,
    strange_beginnings,
    strange_changes,
    strange_gradients,
    strange_inputs,
    strange_quantizers,
    strange_resumes,
    strange_runs,
    strange_states,
)
from tests.incidents.healthy_runs.run import Healthy
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

BUDGETS = [None, 0.005]
STRANGE = [
    run
    for file in (
        strange_attributes,
        strange_beginnings,
        strange_runs,
        strange_states,
        strange_changes,
        strange_gradients,
        strange_inputs,
        strange_quantizers,
        strange_resumes,
    )
    for run in file.RUNS
]


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs' checkpoints go where pytest cleans up."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def _must_be_silent(run: Healthy, budget: float | None, folder: Path) -> None:
    drive(run, healthy=True, folder=folder, budget=budget)
    (engine,) = replay(folder)
    assert engine.looks >= 0.75 * run.META["steps"], "it was not looked at"
    assert not engine.detector_failures, engine.last_failure
    loud = [f for f in engine.findings if f.severity is not Severity.INFO]
    assert not loud, [f"{f.detector} {f.subjects[:3]} {f.first_step}: {f.message}" for f in loud]


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("run", [*long_runs.RUNS], ids=str)
def test_a_long_run_is_silent(run: Healthy, budget: float | None, tmp_path: Path) -> None:
    """Of 2,000 steps of ordinary training not one gives cause for a warning."""
    _must_be_silent(run, budget, tmp_path / "frames")


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("run", STRANGE, ids=str)
def test_a_strange_run_is_silent(run: Healthy, budget: float | None, tmp_path: Path) -> None:
    """What is done on purpose, however odd, is no fault."""
    _must_be_silent(run, budget, tmp_path / "frames")
