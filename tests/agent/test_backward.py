"""
The scalar whose `backward()` is called: recorded under its name, in nobody's way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import trainvitals
from tests.agent.test_launch import frames
from trainvitals.facts import BACKWARD_SCALAR


def attach(model: nn.Module, tmp_path: Path) -> trainvitals.Agent:
    """Everything at every step, to a folder."""
    return trainvitals.attach(model, monitor=str(tmp_path / "frames"), budget=None, quiet=True)


def told(tmp_path: Path) -> dict[int, float]:
    """Step -> the scalar."""
    found = {}
    for header, tables in frames(tmp_path):
        rows = tables.get("scalars", {"scalar": [], "step": [], "value": []})
        for scalar, step, value in zip(rows["scalar"], rows["step"], rows["value"], strict=True):
            if header["scalars"][scalar] == BACKWARD_SCALAR:
                found[int(step)] = float(value)
    return found


def test_what_a_step_was_computed_from(tmp_path: Path) -> None:
    """Microbatches add up, given gradients do not count, a nested call is part of the outer one; the value is the loss's."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original = torch.autograd.backward
    agent = attach(model, tmp_path)
    assert "torch.autograd.backward" in agent.touched()
    expected = {}
    for step in range(1, 4):
        optimizer.zero_grad()
        losses = []
        for part in range(step):
            loss = model(torch.full((2, 4), part + 1.0)).square().mean() / step
            loss.backward()
            losses.append(float(loss.detach()))
        optimizer.step()
        expected[step] = sum(losses)
    x = torch.ones(2, 4, requires_grad=True)
    loss = checkpoint(model, x, use_reentrant=True).sum()
    torch.autograd.backward([loss, 2 * model(x).sum()])
    optimizer.step()
    model(x).backward(torch.ones(2, 1))
    model(x).sum().backward(torch.tensor(1.0))
    optimizer.step()
    agent.close()
    assert torch.autograd.backward is original
    found = told(tmp_path)
    assert set(found) == {1, 2, 3, 4}
    assert [found[step] for step in expected] == pytest.approx(list(expected.values()))
    assert found[4] == pytest.approx(3 * float(loss.detach()), rel=1e-6)


def test_a_failing_backward_stays_the_programs_own(tmp_path: Path) -> None:
    """The error passes, and the next call is heard again."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, tmp_path):
        with pytest.raises(RuntimeError, match="does not require grad"):
            torch.ones(()).backward()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    assert list(told(tmp_path)) == [1]


def iterate(
    agent_of: Callable[[nn.Module], trainvitals.Agent | None], is_backward_compiled: bool
) -> tuple[int, int, int, torch.Tensor]:
    """Four iterations: graphs, breaks and captured backward passes that Dynamo counted, and the weight."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def iteration(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        torch.autograd.backward(model(x).sum())

    agent = agent_of(model)
    compiled = torch.compile(iteration, backend="aot_eager")
    for _ in range(4):
        if is_backward_compiled:
            with compiled_autograd._enable(torch.compile(backend="aot_eager")):
                iteration(torch.ones(2, 4))
        else:
            compiled(torch.ones(2, 4))
        optimizer.step()
    counters = torch._dynamo.utils.counters
    if agent is not None:
        agent.close()
    return (
        counters["stats"]["unique_graphs"],
        sum(counters["graph_break"].values()),
        counters["compiled_autograd"]["captures"],
        model.weight.detach(),
    )


@pytest.mark.filterwarnings("ignore")  # torch's own, which compiled autograd takes for failures
@pytest.mark.parametrize("is_backward_compiled", [False, True])
def test_a_compiled_iteration_keeps_its_graphs(is_backward_compiled: bool, tmp_path: Path) -> None:
    """As many graphs and breaks with the agent as without: backward() in a compiled function, and by compiled autograd."""
    without = iterate(lambda _: None, is_backward_compiled)
    beside = iterate(lambda model: attach(model, tmp_path), is_backward_compiled)
    assert without[0] > 0
    assert (without[2] > 0) == is_backward_compiled
    assert without[:3] == beside[:3]
    assert torch.equal(without[3], beside[3])
    assert set(told(tmp_path)) == {1, 2, 3, 4}


def test_a_dry_run_without_values_is_passed_over(tmp_path: Path) -> None:
    """On meta, or with fake tensors, as those make it who estimate memory: the training after it is told."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, tmp_path) as agent:
        with torch.device("meta"):
            nn.Linear(4, 1)(torch.ones(2, 4)).sum().backward()
        with FakeTensorMode():
            nn.Linear(4, 1)(torch.ones(2, 4)).sum().backward()
        loss = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        optimizer.step()
    assert agent.coverage()["switched_off"] == {}
    assert told(tmp_path) == pytest.approx({1: float(loss.detach())})
