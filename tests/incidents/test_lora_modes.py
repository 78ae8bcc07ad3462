"""
The ways in which a LoRA run explodes, stands still (torchtitan #421) or moves its base (peft #1355), each found; the
sound ones are silent.

Weights are loaded, then `to_empty()` wipes them: fresh pages leave A = B = 0, whose gradients are zero for ever;
recycled memory leaves garbage. Or everything is in place, and the step size is far too large.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import trainvitals
from tests.incidents.drive import findings_of
from trainvitals_monitor.findings import Finding, Severity


class LoRALinear(nn.Module):
    """A frozen linear layer and its adapter: A as peft initialises it, B zero."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(dim, dim, bias=False).requires_grad_(False)
        self.lora_A = nn.Linear(dim, rank, bias=False)
        self.lora_B = nn.Linear(rank, dim, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=5**0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base_layer(x) + 2 * self.lora_B(self.lora_A(x))
        return out

    @torch.no_grad()
    def merge(self, sign: int = 1) -> None:
        """The adapter into the base, or out of it."""
        self.base_layer.weight += sign * 2 * self.lora_B.weight @ self.lora_A.weight


def run(
    folder: Path,
    *,
    memory: str = "kept",
    learning_rate: float = 2e-3,
    sgd: bool = False,
    merge: str = "",
    begun_anew: bool = False,
) -> list[Finding]:
    """
    40 steps of fine-tuning two adapters on a small regression; `merge`: into the base at each step, "restored" or not;
    `begun_anew`: what makes B zero is called after every step of the optimizer.
    """
    torch.manual_seed(0)
    adapted = [LoRALinear(32, 4), LoRALinear(32, 4)]
    model = nn.Sequential(adapted[0], nn.Tanh(), adapted[1])
    target = torch.randn(32, 32) / 32**0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if memory == "zero" and "lora" in name:
                parameter.zero_()
            if memory == "recycled" and "lora_A" in name:
                parameter.normal_(0, 20)
    adapters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(adapters, lr=learning_rate)
    if sgd:
        optimizer = torch.optim.SGD(adapters, lr=learning_rate)
    if begun_anew:
        optimizer.register_step_post_hook(lambda *_: begin(adapted))
    with trainvitals.attach(
        model, optimizer, run=memory, monitor=str(folder), budget=None, quiet=True
    ) as agent:
        for step in range(40):
            x = torch.randn(64, 32)
            loss = (model(x) - x @ target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            agent.log(step=step, loss=loss)
            for sign in {"": (), "kept": (1,), "restored": (1, -1)}[merge]:
                for layer in adapted:
                    layer.merge(sign)
    return [finding for finding in findings_of(folder) if finding.severity is not Severity.INFO]


def begin(adapted: list[LoRALinear]) -> None:
    """Every B is zero, as before the first step."""
    for layer in adapted:
        nn.init.zeros_(layer.lora_B.weight)


def detectors(found: list[Finding], role: str) -> set[str]:
    """Which detectors name an adapter's A or B first."""
    return {f.detector for f in found if f.subjects and role in f.subjects[0]}


def test_adapters_of_zeros_are_found(tmp_path: Path) -> None:
    """A = B = 0 gets no gradient for ever: lora-dead, at the second look, with what follows from it."""
    found = run(tmp_path, memory="zero")
    (dead,) = [one for one in found if one.detector == "lora-dead"]
    assert (dead.severity, dead.first_step) == (Severity.CRITICAL, 0)
    assert all(one.caused_by == dead.id for one in found if one is not dead), found


def test_recycled_memory_is_found_at_once(tmp_path: Path) -> None:
    """An A of garbage beside a B of zero is found at the first step."""
    found = run(tmp_path, memory="recycled")
    assert "lora-a-growth" in detectors(found, "lora_A")
    assert found[0].first_step <= 1


@pytest.mark.parametrize(("learning_rate", "sgd"), [(0.5, False), (20.0, True)])
def test_growth_by_the_step_size_is_found(learning_rate: float, sgd: bool, tmp_path: Path) -> None:
    """|A| that multiplies within 40 steps is found, whether it grows by Adam's steps or by SGD's."""
    found = run(tmp_path, learning_rate=learning_rate, sgd=sgd)
    growing = {"lora-a-growth", "norm-explosion", "non-finite", "loss-non-finite"}
    assert growing & {f.detector for f in found}, [f"{f.detector}: {f.message}" for f in found]


def test_a_b_that_is_begun_anew_at_each_step_is_found(tmp_path: Path) -> None:
    """It alone is told, and not that A, behind it, has no gradient."""
    (stuck,) = run(tmp_path, begun_anew=True)
    assert (stuck.detector, stuck.severity) == ("lora-b-stuck", Severity.CRITICAL)
    assert stuck.subjects == ["0.lora_B.weight", "2.lora_B.weight"]
    assert stuck.first_step <= 1


def test_a_base_that_takes_its_adapter_over_at_each_step_is_found(tmp_path: Path) -> None:
    """A merge for a rollout that adds the adapter again each time (peft #1355)."""
    (moved,) = run(tmp_path, merge="kept")
    assert (moved.detector, moved.severity) == ("base-weights-moved", Severity.CRITICAL)
    assert moved.subjects == ["0.weight", "2.weight"]


def test_a_base_that_is_restored_is_silent(tmp_path: Path) -> None:
    """What a merge and its undoing leave behind is rounding."""
    assert run(tmp_path, merge="restored") == []


@pytest.mark.parametrize("learning_rate", [2e-3, 2e-2])
def test_a_sound_fine_tune_is_silent(learning_rate: float, tmp_path: Path) -> None:
    """Ordinary adapters, also at a brisk learning rate, raise nothing."""
    found = run(tmp_path, learning_rate=learning_rate)
    assert found == [], [f"{f.detector}: {f.message}" for f in found]
