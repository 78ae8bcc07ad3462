"""
The four incidents, on the libraries in which they happened, in programs that nobody edited (the last has one line).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.running import PROGRAMS, Ran, needs, run_program

RUN = ("-m", "trainvitals", "run")

pytestmark = pytest.mark.trainers


def incident(folder: Path, name: str, mode: str, launcher: tuple[str, ...] = RUN) -> Ran:
    """The incident's program in one of its modes, and what was found."""
    return run_program(PROGRAMS / f"{name}.py", mode, folder=folder, launcher=launcher)


def test_expert_bias_zero_in_the_checkpoint(tmp_path: Path) -> None:
    """The replaced buffer in its first step, the zeros in the first save."""
    needs("torchtitan")
    found = {
        finding.detector: finding for finding in incident(tmp_path, "expert_bias", "stale").findings
    }
    assert found["slot-replaced"].first_step == 1
    assert found["checkpoint-stale"].first_step == 10
    assert "all zeros" in found["checkpoint-stale"].message


def test_a_replaced_expert_bias_that_is_saved_as_it_is(tmp_path: Path) -> None:
    """torchtitan 0.3 refreshes its state dict at each save: the checkpoint is sound, and is not accused."""
    needs("torchtitan")
    assert incident(tmp_path, "expert_bias", "replaced").found == ["slot-replaced"]


def test_a_sound_torchtitan_run(tmp_path: Path) -> None:
    """Its pre-hook, its container and its checkpoints raise no alarm."""
    needs("torchtitan")
    ran = incident(tmp_path, "expert_bias", "sound")
    assert ran.found == []
    assert ran.steps == list(range(1, 21))


def test_keys_that_drift_through_resumes(tmp_path: Path) -> None:
    """The second job's checkpoint, before the third fails on it."""
    ran = incident(tmp_path, "compile_resume", "drift")
    assert "job 3 cannot resume" in ran.output
    assert "checkpoint-keys-changed" in ran.found


def test_three_sound_jobs(tmp_path: Path) -> None:
    """Resumes in one process, from state dicts that are made anew."""
    assert incident(tmp_path, "compile_resume", "sound").found == []


@pytest.mark.parametrize(("mode", "expected"), [("bf16", ["contract-broken"]), ("sound", [])])
def test_a_router_bias_in_bf16(mode: str, expected: list[str], tmp_path: Path) -> None:
    """The cast bias at its first step; the one that the router itself casts back is as it should be."""
    needs("megatron")
    ran = incident(tmp_path, "router_dtype", mode)
    assert sorted(set(ran.found) - {"updates-lost", "buffer-stuck"}) == expected
    assert all("expert_bias" in finding.subjects[0] for finding in ran.findings)


def test_a_token_counter_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-LM #7081: still so in megatron-core 0.16.1."""
    needs("megatron")
    monkeypatch.setenv("KEEP_BF16_COUNTER", "1")
    ran = incident(tmp_path, "router_dtype", "sound")
    assert ran.found == ["contract-broken"]
    assert ran.findings[0].subjects == ["router.local_tokens_per_expert"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("garbage", {"resume-not-applied", "lora-a-growth", "loss-at-chance"}),
        ("zeros", {"lora-dead", "loss-at-chance"}),
        ("step", {"lora-a-growth"}),
    ],
)
def test_lora_that_explodes(mode: str, expected: set[str], tmp_path: Path) -> None:
    """Wiped weights and a step size far too large, through the callback."""
    needs("transformers", "peft")
    ran = incident(tmp_path, "lora", mode, launcher=())
    assert expected & set(ran.found), ran.found


def test_a_sound_fine_tuning(tmp_path: Path) -> None:
    """peft through transformers' Trainer: nothing is found."""
    needs("transformers", "peft")
    ran = incident(tmp_path, "lora", "sound", launcher=())
    assert ran.found == []
    assert ran.num_losses == 30
