"""
Routers that keep no token counter, in transformers' own models: their loads are read from what they return.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.running import PROGRAMS, needs, run_program
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

FAMILIES = ("mixtral", "qwen2", "qwen3", "gpt_oss", "deepseek")
HOWS = ("checkpointed", "reentrant")
JOBS = (
    *(f"{family}-{mode}" for family in FAMILIES for mode in ("sound", "collapse")),
    *(f"mixtral-{mode}-{how}" for mode in ("sound", "collapse") for how in HOWS),
    "mixtral-collapse-compiled",
)
CHOICES = 32 * 128 * 2
"""In 32 looks: tokens a step, twice each."""

pytestmark = pytest.mark.trainers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process trains them all."""
    needs("transformers")
    folder = tmp_path_factory.mktemp("routers")
    run_program(PROGRAMS / "moe.py", *JOBS, folder=folder)
    return folder


@pytest.fixture(scope="module")
def runs(trained: Path) -> dict[str, Engine]:
    """What the monitor makes of each."""
    return {engine.run: engine for engine in replay(trained / "frames")}


@pytest.fixture(scope="module")
def told(trained: Path) -> dict[str, Any]:
    """What each agent said at its end."""
    found: dict[str, Any] = json.loads((trained / "told.json").read_text())
    return found


def weight_of(job: str, layer: int = 0) -> str:
    """The router's, by which its load is told."""
    return f"model.layers.{layer}.mlp.{'router' if 'gpt_oss' in job else 'gate'}.weight"


def loud(engine: Engine) -> dict[str, list[str]]:
    """Detectors that found something above info, and where."""
    return {
        one.detector: one.subjects for one in engine.findings if one.severity is not Severity.INFO
    }


@pytest.mark.parametrize(
    "job", [job for job in JOBS if "collapse" in job and "compiled" not in job]
)
def test_a_router_that_collapses_is_found(runs: dict[str, Engine], job: str) -> None:
    """
    Where it does, and not where the other layer's does not; experts without tokens may be said, too, and that DeepSeek's
    router gets no gradient: its sigmoid is saturated then.
    """
    found = loud(runs[job])
    assert weight_of(job) in found.get("router-collapse", []), found
    known = {"router-collapse", "expert-dead", "expert-load-imbalance"}
    assert set(found) <= known | ({"router-untrained"} if "deepseek" in job else set())


@pytest.mark.parametrize("job", [job for job in JOBS if "sound" in job])
def test_a_balanced_one_is_silent(runs: dict[str, Engine], job: str) -> None:
    """The same model with its balancing loss."""
    assert loud(runs[job]) == {}


@pytest.mark.parametrize("job", [job for job in JOBS if "compiled" not in job])
def test_each_choice_is_counted_once(runs: dict[str, Engine], job: str) -> None:
    """From the second step on; checkpointing calls a router twice, and counts once."""
    steps, choices = runs[job].series(weight_of(job, 1), "recent_tokens")
    assert steps.tolist() == list(range(2, 61))
    assert choices[-1] == CHOICES


def test_in_a_compiled_model_there_is_no_hook(
    runs: dict[str, Engine], told: dict[str, Any]
) -> None:
    """Nothing is said of loads, and the coverage tells why."""
    assert not len(
        runs["mixtral-collapse-compiled"].series(weight_of("mixtral"), "recent_tokens")[0]
    )
    assert "2 routers run in compiled graphs" in " ".join(
        told["mixtral-collapse-compiled"]["limits"]
    )


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_left_and_nothing_fails(told: dict[str, Any], job: str) -> None:
    """No hook after the training, no part switched off, and no limit where nothing is compiled."""
    assert (told[job]["off"], told[job]["left"]) == ({}, [])
    assert bool(told[job]["limits"]) == ("compiled" in job)
