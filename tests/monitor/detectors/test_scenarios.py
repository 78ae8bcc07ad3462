"""
Each detector on made-up runs: those that have its fault are found, those that only look like it are not.
"""

from __future__ import annotations

import re

import pytest

from tests.monitor.detectors import (
    adapter_scenarios,
    average_scenarios,
    beginning_scenarios,
    checkpoint_scenarios,
    codebook_scenarios,
    coverage_scenarios,
    decay_scenarios,
    expert_scenarios,
    gradient_scenarios,
    identity_scenarios,
    input_scenarios,
    lock_scenarios,
    mode_scenarios,
    movement_scenarios,
    number_scenarios,
    optimizer_scenarios,
    overwriting_scenarios,
    rank_scenarios,
    rate_scenarios,
    reference_scenarios,
    resume_scenarios,
    step_scenarios,
    unregistered_scenarios,
    zero_scenarios,
)
from tests.monitor.detectors.scenario import SEVERE, Scenario
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors import DETECTORS, Detector

FILES = (
    gradient_scenarios,
    identity_scenarios,
    lock_scenarios,
    mode_scenarios,
    movement_scenarios,
    coverage_scenarios,
    adapter_scenarios,
    expert_scenarios,
    number_scenarios,
    decay_scenarios,
    beginning_scenarios,
    average_scenarios,
    optimizer_scenarios,
    checkpoint_scenarios,
    rate_scenarios,
    step_scenarios,
    zero_scenarios,
    resume_scenarios,
    reference_scenarios,
    rank_scenarios,
    codebook_scenarios,
    unregistered_scenarios,
    input_scenarios,
    overwriting_scenarios,
)
SCENARIOS = [scenario for file in FILES for scenario in file.SCENARIOS]
FIRING = [scenario for scenario in SCENARIOS if scenario.fires is not None]
SILENT = [scenario for scenario in SCENARIOS if scenario.fires is None]


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_every_detector_has_runs_that_fire_it_and_runs_that_do_not(
    detector: type[Detector],
) -> None:
    """No detector can be forgotten, in either direction."""
    assert any(scenario.detector is detector for scenario in FIRING)
    assert any(scenario.detector is detector for scenario in SILENT)


@pytest.mark.parametrize("scenario", FIRING, ids=str)
def test_a_fault_is_found(scenario: Scenario) -> None:
    """The finding has the expected severity, subject and step, and reads well."""
    engine = scenario.make().engine([scenario.detector])
    assert not engine.detector_failures, engine.last_failure
    assert engine.findings, "nothing was found"
    finding = engine.findings[0]
    assert finding.detector == scenario.detector.name
    assert finding.severity is scenario.fires
    if scenario.subject is not None:
        assert finding.subjects[0] == scenario.subject
    if scenario.first_step is not None:
        assert finding.first_step == scenario.first_step
    assert scenario.says in finding.message


@pytest.mark.parametrize("scenario", FIRING, ids=str)
def test_a_message_is_one_sentence_and_says_what_to_do(scenario: Scenario) -> None:
    """No field is left unfilled, there is evidence in numbers, and advice."""
    for finding in scenario.make().engine([scenario.detector]).findings:
        for text in (finding.message, finding.advice):
            assert text.endswith("."), text
            assert "\n" not in text
            assert not re.search(r"\bnan\b", text.replace("loss is nan", "")), text
        assert "{" not in finding.message
        assert ". " not in finding.message.removesuffix("."), finding.message
        assert len(finding.message) < 300
        assert finding.evidence


@pytest.mark.parametrize("scenario", SILENT, ids=str)
def test_a_sound_run_stays_without_a_warning(scenario: Scenario) -> None:
    """What only resembles the fault is info at most, and nothing at all where the fault itself is info."""
    engine = scenario.make().engine([scenario.detector])
    assert not engine.detector_failures, engine.last_failure
    least = max(SEVERE, scenario.detector.severity.rank)
    assert [one.message for one in engine.findings if one.severity.rank <= least] == []


def test_an_ordinary_run_has_no_finding_at_all() -> None:
    """All detectors together say nothing of a healthy model with every kind of tensor, saves included."""
    names = ["embed.weight", "layers.0.wq.weight", "layers.0.norm.weight", "output.weight"]
    buffer = tensor("layers.0.moe.expert_bias", kind="buffer", shape=[8])
    cache = tensor("rope.cache", kind="buffer", persistent=False)
    stream = Stream([*names, buffer, cache, tensor("frozen.weight", trainable=False)])
    stream.optimizers([names])
    for step in range(100):
        moving = dict.fromkeys(names, 0.01) | {buffer.fqn: 0.001}
        stream.step(
            values={"*": 1.0 + 0.01 * step},
            updates={**moving, "*": 0.0},
            gradients=dict.fromkeys(names, 0.1),
            extremes={buffer.fqn: (-0.001 * step, 0.001 * step)},
            counters=dict.fromkeys(names, step + 1),
            loss=4.0 - 0.02 * step,
            lr=1e-3,
        )
        if step % 25 == 24:
            stream.checkpoint(path=f"step-{step}.pt", version=step)
    engine = stream.engine()
    assert not engine.detector_failures, engine.last_failure
    assert engine.findings == []
