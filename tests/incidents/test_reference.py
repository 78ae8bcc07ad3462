"""
Runs beside a good run of the same script: a change is found where it sets in, and what is no change is silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.incidents.drive import drive
from tests.incidents.reference_pairs import Trainer
from trainvitals_monitor.cli import main
from trainvitals_monitor.compare import Compared, compare

GOOD = {model: Trainer(model=model) for model in ("perceptron", "language", "convolution")}

# model, what is changed, what is named first
CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("perceptron", {"divided": 2}, "gradient"),
    ("perceptron", {"init_scale": 3.0}, "start"),
    ("perceptron", {"dropout": 0.4}, "dropout rates"),
    ("perceptron", {"head_rate": 1.0}, "learning rate"),
    ("perceptron", {"weight_decay": 0.0}, "update"),
    ("language", {"weight_decay": 0.0}, "update"),
    ("perceptron", {"divided": 2, "seed": 1}, "gradient level"),
    ("language", {"divided": 2, "data": 1}, "gradient level"),
    ("convolution", {"init_scale": 3.0, "seed": 1}, "start"),
    ("perceptron", {"head_rate": 1.0, "seed": 1}, "learning rate"),
    ("convolution", {"divided": 2, "noise": True}, "gradient"),
]
NO_CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("perceptron", {}, "bit-exact"),
    ("language", {"steps": 12}, "bit-exact"),
    ("perceptron", {"seed": 1}, "statistical"),
    ("language", {"seed": 2, "data": 1}, "statistical"),
    ("convolution", {"data": 1}, "statistical"),
    ("perceptron", {"noise": True}, "close"),
    ("convolution", {"noise": True}, ""),
    ("language", {"threads": 2}, ""),
    ("convolution", {"threads": 2}, ""),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What a trainer sets is set back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Frames of a model's good run, made once."""

    @cache
    def made(model: str) -> Path:
        return run(GOOD[model], tmp_path_factory.mktemp(f"good-{model}"))

    return made


def run(trainer: Trainer, folder: Path, budget: float | None = None) -> Path:
    """The trainer's frames."""
    drive(replace(trainer, META={}).case("pair"), True, folder, budget=budget)
    return folder


def loud(found: Compared) -> list[tuple[str, int, str]]:
    """What was found above info: in what, when, and in words."""
    return [
        (one["evidence"][0]["kind"], one["first_step"], one["message"])
        for one in found.findings
        if one["severity"] != "info"
    ]


@pytest.mark.parametrize(("model", "changed", "kind"), CHANGES, ids=str)
def test_a_change_is_found(
    model: str, changed: dict[str, Any], kind: str, good: Any, tmp_path: Path
) -> None:
    """In the first step, and in what was changed first."""
    found = compare(run(replace(GOOD[model], **changed), tmp_path), good(model))
    assert loud(found), found
    assert kind in [one for one, *_ in loud(found)]
    assert loud(found)[0][1] == 0


@pytest.mark.parametrize(("model", "changed", "mode"), NO_CHANGES, ids=str)
def test_what_is_no_change_is_silent(
    model: str, changed: dict[str, Any], mode: str, good: Any, tmp_path: Path
) -> None:
    """A repeat, another seed, order of data, number of threads, or one ulp at the start."""
    found = compare(run(replace(GOOD[model], **changed), tmp_path), good(model))
    assert not loud(found), loud(found)
    assert mode in found.mode


@pytest.mark.parametrize("noise", [False, True])
def test_bfloat16_is_silent(noise: bool, tmp_path: Path) -> None:
    """Its ulps are 65,000 times as large."""
    trainer = Trainer(model="language", dtype=torch.bfloat16)
    other = replace(trainer, noise=noise, threads=2)
    found = compare(run(other, tmp_path / "run"), run(trainer, tmp_path / "reference"))
    assert not loud(found), loud(found)


def test_budgets_that_look_at_different_tensors(good: Any, tmp_path: Path) -> None:
    """What was not looked at in both is not compared."""
    found = compare(run(GOOD["language"], tmp_path, budget=0.005), good("language"))
    assert not loud(found), loud(found)
    assert found.steps == GOOD["language"].steps


def test_the_commands(good: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compare and replay --reference say it, and tell it by their exit status."""
    other = str(run(replace(GOOD["perceptron"], divided=2), tmp_path))
    same = str(good("perceptron"))
    assert main(["compare", same, same]) == 0
    assert "bit-exact" in capsys.readouterr().out
    assert main(["compare", other, same]) == 1
    assert "gradient" in capsys.readouterr().out
    assert main(["compare", other, same, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["mode"] == "bit-exact"
    assert told["findings"][0]["first_step"] == 0
    assert main(["replay", other, "--reference", same]) == 1
    assert "differs-from-reference" in capsys.readouterr().out
    assert main(["replay", other]) == 0
    assert main(["compare", other, str(tmp_path / "absent")]) == 2
