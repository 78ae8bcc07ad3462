"""The clock sees each step of a trainer exactly once, whatever its optimizers look like."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from trainvitals.clock import Clock
from trainvitals.guard import Guard
from trainvitals.progress import Progress
from trainvitals.steppers import is_phantom, plain_optimizers
from trainvitals.stretch import Stretch


class Seen:
    """Counts what the clock says."""

    def __init__(self) -> None:
        self.before: list[list[Optimizer]] = []
        self.rounds: list[list[Optimizer]] = []


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Clock, Seen]]]:
    """Starts a clock that owns every optimizer, and stops it at the end."""
    clocks: list[Clock] = []

    def begin(
        expected: Sequence[Optimizer] = (), owns: Callable[[Optimizer], bool] = lambda _: True
    ) -> tuple[Clock, Seen]:
        seen = Seen()
        clock = Clock(
            owns,
            lambda optimizers: seen.before.append(list(optimizers)),
            lambda optimizers: seen.rounds.append(list(optimizers)),
            expected,
            stretch=Stretch(Progress.at(0)),
            settle=lambda: None,
            guard=Guard(),
        )
        clock.start()
        clocks.append(clock)
        return clock, seen

    yield begin
    for clock in clocks:
        clock.stop()


def trained(model: nn.Module, optimizer: Optimizer) -> None:
    """One training step."""
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def test_one_optimizer_is_one_round_a_step(start: Any) -> None:
    """A step of a single optimizer ends its round at once."""
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    _, seen = start()
    for _ in range(3):
        trained(model, optimizer)
    assert seen.rounds == [[optimizer]] * 3
    assert len(seen.before) == 3


@pytest.mark.parametrize("given", [True, False])
def test_two_optimizers_make_one_step(start: Any, given: bool) -> None:
    """Optimizers that step in turn share a step, told at attach or found."""
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizers = [SGD(a.parameters(), lr=0.1), SGD(b.parameters(), lr=0.1)]
    clock, seen = start(optimizers if given else ())
    for _ in range(4):
        trained(a, optimizers[0])
        trained(b, optimizers[1])
    clock.finish_round()
    assert len(seen.rounds) == 4
    assert seen.rounds[-1] == optimizers


def test_a_gan_that_trains_its_critic_five_times_makes_five_steps(start: Any) -> None:
    """An optimizer that steps again begins a new round."""
    critic, generator = nn.Linear(4, 4), nn.Linear(4, 4)
    of_critic, of_generator = SGD(critic.parameters(), lr=0.1), SGD(generator.parameters(), lr=0.1)
    clock, seen = start([of_critic, of_generator])
    for _ in range(3):
        for _ in range(5):
            trained(critic, of_critic)
        trained(generator, of_generator)
    clock.finish_round()
    assert len(seen.rounds) == 15
    assert [of_generator in each for each in seen.rounds] == ([False] * 4 + [True]) * 3


@pytest.mark.parametrize("kept", [True, False])
def test_an_optimizer_that_replaces_another_makes_steps_of_its_own(start: Any, kept: bool) -> None:
    """Its first step is one more, whether the old optimizer is still there or not."""
    model = nn.Linear(4, 4)
    clock, seen = start()
    first = SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        trained(model, first)
    seen.before.clear()
    seen.rounds.clear()
    if not kept:
        del first
    second = SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        trained(model, second)
    clock.finish_round()
    assert seen.rounds == [[second]] * 4


def test_optimizer_in_backward_is_one_step(start: Any) -> None:
    """One optimizer per parameter, each stepping in the middle of backward, makes one step a backward."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizers = {parameter: SGD([parameter], lr=0.1) for parameter in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    clock, seen = start()
    for _ in range(5):
        model.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
    clock.finish_round()
    assert len(seen.rounds) == 5
    assert len(seen.rounds[-1]) == 4


class Container(Optimizer):
    """As torchtitan's OptimizersContainer: an Optimizer of optimizers, whose groups have no learning rate."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        super().__init__(parameters, {})
        self.optimizers = optimizers

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()


def test_a_container_and_its_optimizers_are_one_step(start: Any) -> None:
    """What steps inside another optimizer's step is part of it; callbacks get the plain optimizers."""
    model = nn.Linear(4, 4)
    inner = [SGD([model.weight], lr=0.1), SGD([model.bias], lr=0.1)]
    container = Container(inner)
    _, seen = start()
    for _ in range(3):
        trained(model, container)
    assert seen.rounds == [inner] * 3
    assert plain_optimizers(container) == inner


def test_a_phantom_step_is_none(start: Any) -> None:
    """The step that get_optimizer_state_dict makes to fill a fresh optimizer's state is not counted."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(4, 4)
    optimizer = Adam(model.parameters(), lr=0.1)
    _, seen = start()
    get_optimizer_state_dict(model, optimizer)
    assert seen.rounds == []
    assert seen.before == []
    trained(model, optimizer)
    assert len(seen.rounds) == 1


def test_a_warm_up_from_a_rate_of_zero_is_a_step() -> None:
    """A learning rate of 0 with gradients is no phantom; the same without gradients is one."""
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.0)
    assert is_phantom(optimizer)
    model(torch.ones(2, 4)).sum().backward()
    assert not is_phantom(optimizer)


@pytest.mark.parametrize("rate", [None, "fast", [0.0, 0.0], torch.zeros((), device="meta")])
def test_a_rate_that_is_no_number_is_no_phantom(rate: Any) -> None:
    """Optimizers keep what they like as "lr"; a tensor on another device is not waited for."""
    optimizer = SGD(nn.Linear(4, 4).parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    assert not is_phantom(optimizer)


@pytest.mark.parametrize("rate", [0, np.float32(0.0), torch.zeros(1)])
def test_a_rate_of_zero_may_be_any_number(rate: Any) -> None:
    """Schedulers leave numpy's and torch's numbers there."""
    optimizer = SGD(nn.Linear(4, 4).parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    assert is_phantom(optimizer)


def test_a_step_that_raises_leaves_the_clock_right(start: Any) -> None:
    """After a step that raised half-way, the next step is counted as usual."""
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    _, seen = start()

    def closure() -> float:
        raise KeyError("the user's own")

    with pytest.raises(KeyError):
        optimizer.step(closure)
    trained(model, optimizer)
    trained(model, optimizer)
    assert len(seen.rounds) == 2


@pytest.mark.parametrize("kept", [False, True], ids=["and is gone", "and is kept"])
def test_an_optimizer_after_one_that_raised_is_heard(start: Any, kept: bool) -> None:
    """A trainer that makes a new one: its steps are not inside the one that never ended, not for long at least."""
    model = nn.Linear(4, 4)
    _, seen = start()

    def closure() -> float:
        raise KeyError("the user's own")

    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError):
        optimizer.step(closure)
    old = [optimizer] if kept else []
    optimizer = SGD(model.parameters(), lr=0.1)
    seen.before.clear()
    gc.collect()
    for _ in range(20):
        trained(model, optimizer)
    assert len(seen.rounds) == (4 if old else 20)


def test_lbfgs_and_its_closure_are_one_step(start: Any) -> None:
    """LBFGS runs forward and backward many times inside one step."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    _, seen = start()
    for _ in range(3):
        optimizer.step(closure)
    assert len(seen.rounds) == 3


def test_others_optimizers_are_ignored(start: Any) -> None:
    """An optimizer that trains something else makes no step."""
    ours, other = nn.Linear(4, 4), nn.Linear(4, 4)
    mine, foreign = SGD(ours.parameters(), lr=0.1), SGD(other.parameters(), lr=0.1)
    _, seen = start(owns=lambda optimizer: optimizer is mine)
    trained(other, foreign)
    trained(ours, mine)
    assert len(seen.rounds) == 1


def test_a_compiled_step_keeps_its_one_graph(start: Any) -> None:
    """Under torch.compile(optimizer.step) each step is seen once, and nothing is compiled again for us."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = nn.Linear(4, 4)
    optimizer = Adam(model.parameters(), lr=0.1)
    _, seen = start()
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(6):
        model(torch.ones(2, 4)).square().sum().backward()
        step()
        optimizer.zero_grad()
    assert len(seen.rounds) == 6
    assert counters["stats"]["unique_graphs"] == 1


def test_stopping_leaves_no_hook(start: Any) -> None:
    """After stop() torch's global hook tables are what they were."""
    from torch.optim import optimizer as module

    before = dict(module._global_optimizer_pre_hooks), dict(module._global_optimizer_post_hooks)
    clock, _ = start()
    assert clock.touched()
    clock.stop()
    assert (
        dict(module._global_optimizer_pre_hooks),
        dict(module._global_optimizer_post_hooks),
    ) == before
    assert clock.touched() == []
