"""The probe of kept gradients, around real backward passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.agent.rig import Rig
from trainvitals.probes.kept import BURST_STEPS, PARAMETERS, REST_STEPS


def _train(
    clear: Callable[[torch.optim.Optimizer], None], steps: int = 6, passes: int = 1
) -> tuple[Rig, nn.Linear, list[torch.Tensor]]:
    """A linear layer on noise; the gradients of its weight as the optimizer got them."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rig, gradients = Rig(model), []
    for _ in range(steps):
        clear(optimizer)
        for _ in range(passes):
            model(torch.randn(4, 8)).square().mean().backward()
        assert model.weight.grad is not None
        gradients.append(model.weight.grad.clone())
        rig.round(optimizer)
    return rig, model, gradients


def test_gradients_that_are_never_cleared_get_one_write_a_step() -> None:
    """The rows begin at the third step; the sums are those of the gradients."""
    rig, _, gradients = _train(lambda _: None)
    rows = rig.rows("kept", "weight")
    assert list(rows) == [3, 4, 5, 6]
    before, now = gradients[-2].double(), gradients[-1].double()
    assert rows[6]["writes"] == 1
    assert rows[6]["kept_dot"] == pytest.approx(float((before * now).sum()), rel=1e-6)
    assert rows[6]["kept_before"] == pytest.approx(float(before.square().sum()), rel=1e-6)
    assert rows[6]["kept_square"] == pytest.approx(float(now.square().sum()), rel=1e-6)


def test_clearing_in_place_is_a_write_of_its_own() -> None:
    """`set_to_none=False` keeps the tensors: twice as many writes."""
    rig, *_ = _train(lambda optimizer: optimizer.zero_grad(set_to_none=False))
    assert {row["writes"] for row in rig.rows("kept", "weight").values()} == {2}


def test_new_gradients_are_not_looked_at() -> None:
    """The default makes new tensors, even where they lie at the same place."""
    rig, *_ = _train(lambda optimizer: optimizer.zero_grad())
    assert rig.table("kept") == []


def test_accumulation_without_clearing_has_a_write_per_pass() -> None:
    """Four backward passes are four writes."""
    rig, *_ = _train(lambda _: None, passes=4)
    assert {row["writes"] for row in rig.rows("kept", "weight").values()} == {4}


def test_rows_are_about_neighbouring_steps() -> None:
    """After rests they begin anew, as they do at first: two looks between rests give none."""
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rig = Rig(model)
    for looked in (True, True, True, False, False, True, True, False, True, True, True):
        model(torch.randn(4, 8)).square().mean().backward()
        (rig.round if looked else rig.rest)(optimizer)
    assert {step: row["writes"] for step, row in rig.rows("kept", "weight").items()} == {
        3: 1,
        11: 1,
    }


def test_few_parameters_in_bursts() -> None:
    """At most eight parameters, for sixteen steps, and again later."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rig = Rig(model)
    for _ in range(REST_STEPS + 4):
        optimizer.zero_grad(set_to_none=False)
        model(torch.randn(2, 4)).sum().backward()
        rig.round(optimizer)
    steps = sorted({int(step) for part in rig.table("kept") for step in part["step"]})
    assert steps == [*range(3, BURST_STEPS + 1), REST_STEPS + 3, REST_STEPS + 4]
    assert {len(part["tensor"]) for part in rig.table("kept")} == {PARAMETERS}
