"""
Tensors that torch swaps: conversions and loads of attached models work as they do without us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import trainvitals
from trainvitals.probes.checkpoint.targets import TARGETS
from trainvitals.probes.checkpoint.watch import Watch


@pytest.fixture
def _swapping() -> Iterator[None]:
    """torch swaps tensors instead of setting .data, as it does for DTensors and other subclasses in any case."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def _one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    """Some steps."""
    dtype = next(model.parameters()).dtype
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(2, 4, dtype=dtype)).square().sum().backward()
        optimizer.step()


@pytest.mark.usefixtures("_swapping")
def test_swapped_parameters_stay_the_same_objects(tmp_path: Path) -> None:
    """A conversion and a load between steps go through, and are no replaced parameters."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainvitals.attach(model, monitor=str(tmp_path), budget=None, quiet=True) as agent:
        train(model, optimizer, 2)
        model.double()
        model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
        assert not any("object" in event.changes for event in agent._slots.check())
        train(model, optimizer)
        model[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.double))
        assert ["object" in event.changes for event in agent._slots.check()] == [True]


@pytest.mark.usefixtures("_swapping")
def test_after_close_nothing_is_in_the_way(tmp_path: Path) -> None:
    """A closed agent that the trainer still holds refers to no tensor, and torch's function is back."""
    swap_tensors = torch.utils.swap_tensors
    model = nn.Linear(4, 4)
    agent = trainvitals.attach(model, monitor=str(tmp_path), quiet=True)
    assert "torch.utils.swap_tensors" in agent.touched()
    agent.close()
    assert torch.utils.swap_tensors is swap_tensors
    model.double()
    assert agent.coverage()["tensors"] == 2


@pytest.mark.usefixtures("_swapping")
def test_loads_before_attach_may_swap() -> None:
    """The journal of loads that nobody has claimed keeps no reference to the loaded tensors."""
    watch = Watch(TARGETS)
    watch.hold()
    try:
        model = nn.Linear(4, 4)
        model.load_state_dict(nn.Linear(4, 4).state_dict())
        assert len(watch.journal) == 1
    finally:
        watch.release()


@pytest.mark.usefixtures("_one_rank")
def test_a_sharded_model_can_be_converted(tmp_path: Path) -> None:
    """`model.to()` under FSDP2, whose parameters torch always swaps."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 4))
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainvitals.attach(model, monitor=str(tmp_path), budget=None, quiet=True) as agent:
        model.double()
        train(model, optimizer, 2)
        assert agent.coverage()["steps"] == 2
        assert not agent.coverage()["switched_off"]
