"""
The four incidents that are the reason to exist: each is found, in time and by name; its healthy twin is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.incidents.drive import drive, findings_of, load_case
from trainvitals_monitor.findings import Severity

# case, detectors that fit the fault, a part of the wrong tensor's name, steps from onset within which it must be found
INCIDENTS = [
    ("case_01_expert_bias_reassign", {"slot-replaced"}, "expert_bias", 3),
    ("case_01_expert_bias_reassign", {"checkpoint-stale"}, "expert_bias", 29),
    ("case_02_compile_fqn_drift", {"checkpoint-keys-changed"}, "layers.0", 19),
    ("case_03_expert_bias_bf16", {"contract-broken"}, "expert_bias", 3),
    ("case_04_lora_meta_init", {"lora-a-growth", "loss-at-chance"}, "", 3),
    ("case_04_lora_meta_init", {"lora-a-growth"}, "lora_A", 3),
]
HEALTHY = [
    "case_01_expert_bias_reassign",
    "case_02_compile_fqn_drift",
    "case_03_expert_bias_bf16",
    "case_04_lora_meta_init",
    "healthy_01_warmup_from_zero",
    "healthy_04_grad_accumulation",
    "healthy_06_sparse_embedding",
    "healthy_07_lora_b_zero_init",
    "healthy_10_reassigned_cache_buffer",
]


@pytest.mark.parametrize(("name", "detectors", "subject", "within"), INCIDENTS)
def test_the_fault_is_found(
    name: str, detectors: set[str], subject: str, within: int, tmp_path: Path
) -> None:
    """The right detector names the right tensor within the given steps of the first wrong state, and not before."""
    case = load_case(name)
    drive(case, healthy=False, folder=tmp_path, budget=None)
    hits = [
        finding
        for finding in findings_of(tmp_path)
        if finding.detector in detectors and finding.severity is not Severity.INFO
    ]
    assert hits, [f"{f.detector} {f.first_step}: {f.message}" for f in findings_of(tmp_path)]
    onset = case.META["bug_step"]
    assert all(finding.first_step >= onset for finding in hits)
    assert min(finding.first_step for finding in hits) - onset <= within
    assert any(subject in fqn for fqn in hits[0].subjects[:3]) or not subject
    assert hits[0].message.strip()
    assert hits[0].advice.strip()


@pytest.mark.parametrize("name", [*HEALTHY])
@pytest.mark.parametrize("budget", [None, 0.005])
def test_a_healthy_run_is_silent(name: str, budget: float | None, tmp_path: Path) -> None:
    """Nothing above info is said about a run in which nothing is wrong, whatever the budget."""
    drive(load_case(name), healthy=True, folder=tmp_path, budget=budget)
    loud = [f for f in findings_of(tmp_path) if f.severity is not Severity.INFO]
    assert not loud, [f"{f.detector} {f.subjects[:3]} {f.first_step}: {f.message}" for f in loud]


def test_a_fault_in_every_checkpoint_is_one_finding(tmp_path: Path) -> None:
    """Case 01 saves two wrong checkpoints: one finding that lasts, not one a save (each would page)."""
    drive(load_case("case_01_expert_bias_reassign"), healthy=False, folder=tmp_path, budget=None)
    stale = [found for found in findings_of(tmp_path) if found.detector == "checkpoint-stale"]
    assert [(found.first_step, found.last_step) for found in stale] == [(29, 59)]
