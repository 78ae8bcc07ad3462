"""
The snippets of docs/integrations.md under torchrun on two ranks: where each rank is, what its layout is, and that
a sound training is silent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.running import PROGRAMS, Ran, needs, run_program
from tests.trainers.test_snippets import SNIPPETS
from trainvitals_monitor.replay import replay

EXPECTED = {
    "accelerate": ("dp", {"replica"}),
    "lightning": ("dp", {"replica"}),
    "megatron": ("dp", {"replica", "unknown"}),  # buffers: nobody says what they are
    "torchtitan": ("fsdp", {"box", "unknown"}),
    "transformers": ("dp", {"replica"}),
}

pytestmark = pytest.mark.trainers


def on_two_ranks(name: str, folder: Path) -> Ran:
    """An integration's snippet, on each rank."""
    needs(name)
    snippet = SNIPPETS[name]
    if name == "lightning":
        snippet = snippet.replace('"cpu",', '"cpu", devices=2, strategy="ddp",')
    prelude = (PROGRAMS / f"{name}_prelude.py").read_text()
    (folder / "program.py").write_text(prelude + snippet)
    return run_program(folder / "program.py", folder=folder, ranks=2)


@pytest.mark.parametrize("name", EXPECTED)
def test_two_ranks_say_where_they_are(name: str, tmp_path: Path) -> None:
    """Each rank's place on the trainer's mesh, one run of both, every step, and no finding."""
    axis, layouts = EXPECTED[name]
    ran = on_two_ranks(name, tmp_path)
    assert ran.meshes == {0: f"{axis}=0/2", 1: f"{axis}=1/2"}
    assert len(ran.runs) == 1
    assert set(ran.layouts.values()) == layouts
    assert ran.steps == list(range(1, len(ran.steps) + 1))
    assert len(ran.steps) >= 8
    assert ran.found == []
    if name == "torchtitan":
        (engine,) = replay(tmp_path / "frames")
        steps, _ = engine.series("layers.1.moe.tokens_per_expert_E", "recent_effective")
        assert len(steps) > 8, "loads of both ranks, added up"


def test_a_megatron_replica_that_parts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master weight of rank 1 is nudged after its 8th step; Megatron's parallel state declares who is a replica."""
    monkeypatch.setenv("PARTS_AT", "8")
    ran = on_two_ranks("megatron", tmp_path)
    assert "replica-divergence" in ran.found
    finding = next(one for one in ran.findings if one.detector == "replica-divergence")
    assert finding.subjects == ["head.weight"]
    assert 9 <= finding.first_step <= 11
    assert "rank 1" in finding.message
