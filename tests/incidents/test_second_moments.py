"""
An Adam that keeps its second moment in bfloat16: found where it can't decay, and only there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.incidents.drive import drive
from tests.incidents.healthy_runs.run import Run, blobs, perceptron, update
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay


class SmallAdam(torch.optim.Optimizer):
    """Second moments in bfloat16, rounded to nearest at each operation, or stochastically once."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], beta2: float, stochastic: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": 3e-3})
        self.beta2, self.stochastic = beta2, stochastic

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        for parameter in self.param_groups[0]["params"]:
            gradient, state = parameter.grad, self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["step"] += 1
            second = state["exp_avg_sq"]
            if self.stochastic:
                exact = second.float().mul_(self.beta2)
                exact.addcmul_(gradient, gradient, value=1 - self.beta2)
                noise = torch.randint(0, 1 << 16, exact.shape, dtype=torch.int32)
                second.copy_(((exact.view(torch.int32) + noise) & -65536).view(torch.float32))
            else:
                squared = (gradient**2).bfloat16()
                second.mul_(self.beta2).add_(squared, alpha=1 - self.beta2)
            size = (second.float() / (1 - self.beta2 ** float(state["step"]))).sqrt()
            parameter.addcdiv_(gradient, size + 1e-8, value=-3e-3)


class Trainer:
    """A case."""

    def __init__(self, **how: Any) -> None:
        self.META: dict[str, Any] = {"id": "second-moments", "steps": 40, "world_size": 1}
        self._how = how

    def build(self, healthy: bool, rank: int, world_size: int) -> Run:
        """The trainer, ready for its first step."""
        torch.manual_seed(0)
        model = perceptron(16, 48, 48, 4)
        optimizer = SmallAdam(model.parameters(), **self._how)

        def step(i: int) -> float:
            values, labels = blobs(i)
            return update(optimizer, functional.cross_entropy(model(values), labels))

        return Run(model, optimizer, step)


@pytest.mark.parametrize(
    ("how", "is_fault"),
    [
        ({"beta2": 0.999}, True),
        ({"beta2": 0.99}, False),
        ({"beta2": 0.999, "stochastic": True}, False),
        ({"beta2": 0.9999, "stochastic": True}, False),
    ],
    ids=str,
)
def test_a_moment_that_cannot_decay(how: dict[str, Any], is_fault: bool, tmp_path: Path) -> None:
    """What a thousandth takes away is less than half an ulp; chance, or a hundredth, makes elements fall."""
    drive(Trainer(**how), True, tmp_path, budget=None)
    (engine,) = replay(tmp_path)
    loud = [one for one in engine.findings if one.severity is not Severity.INFO]
    assert bool(loud) is is_fault, loud
    assert {one.detector for one in loud} <= {"optimizer-state-low-precision"}
