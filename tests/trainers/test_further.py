"""
Trainers and adapters beyond the snippets: torchtitan's LoRA converter, TRL's trainers, trainings that begin anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.running import PROGRAMS, needs, run_program

pytestmark = pytest.mark.trainers


@pytest.mark.parametrize(("mode", "expected"), [("sound", []), ("step", ["lora-a-growth"])])
def test_torchtitans_lora_converter(mode: str, expected: list[str], tmp_path: Path) -> None:
    """Its adapters are known for such, with what they adapt; a step size far too large is found."""
    needs("torchtitan")
    ran = run_program(PROGRAMS / "titan_lora.py", mode, folder=tmp_path)
    assert set(ran.found) == set(expected)
    subjects = {fqn for finding in ran.findings for fqn in finding.subjects}
    assert all(fqn.endswith(".lora_a.weight") for fqn in subjects)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_trls_trainers(kind: str, tmp_path: Path) -> None:
    """Every step is seen, also where generation comes between; a sound training is silent."""
    needs("trl")
    ran = run_program(PROGRAMS / "trl_trainer.py", kind, folder=tmp_path)
    assert ran.steps == list(range(1, 17))
    assert ran.num_losses
    assert ran.found == []


def test_a_training_that_begins_anew_with_smaller_batches(tmp_path: Path) -> None:
    """transformers begins again on the same model, which is no model that somebody else watches."""
    needs("transformers")
    ran = run_program(PROGRAMS / "smaller_batches.py", folder=tmp_path)
    assert "batches of 3" in ran.output
    assert len(ran.steps) == 2 + 24
    assert ran.found == []


def test_a_module_that_is_fitted_again_after_an_exception(tmp_path: Path) -> None:
    """Lightning tells its callbacks of the exception; the second training is watched as the run's next attempt."""
    needs("lightning")
    ran = run_program(PROGRAMS / "fit_again.py", folder=tmp_path)
    assert "failed by its own" in ran.output
    assert ran.runs == ["again"]
    assert len(ran.steps) == 3 + 8
    assert ran.found == []
