"""
Rests that are known beforehand are counted by two cheap hooks: nothing of what each step is asked for is lost by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import trainvitals
from tests.agent.test_rests import told
from trainvitals.agent import Agent
from trainvitals.budget import Budget
from trainvitals.frame import StepsAttempted
from trainvitals.probes.probe import Choice
from trainvitals.slots import SlotTable
from trainvitals.stretch import Stretch

FINDING = dict.fromkeys(("id", "detector", "severity", "message", "advice"), "critical")
LOOKED = 4
"""The first steps, which are looked at; all others are rests, in stretches of eight."""


@pytest.fixture(autouse=True)
def _rests(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(budget: Budget, step: int, slots: SlotTable) -> Choice | None:
        budget._learn_slots(slots)
        return budget._everything(step, slots) if step < LOOKED else None

    monkeypatch.setattr(Budget, "choose", choose)
    monkeypatch.setattr(Budget, "rests_ahead", lambda *_: 8)


class Trained:
    """A model with an agent attached, in the middle of a stretch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = nn.Linear(4, 4)
        self.optimizer = SGD(self.model.parameters(), lr=0.1, weight_decay=0.01)
        self.agent: Agent = trainvitals.attach(
            self.model, self.optimizer, run="stretch", monitor=str(folder), quiet=True
        )
        self.made = 0
        self.step(LOOKED + 3)
        assert self.stretch.left == 6

    @property
    def stretch(self) -> Stretch:
        """The agent's."""
        return self.agent._clock._stretch

    def step(self, count: int = 1) -> None:
        """So many steps."""
        for _ in range(count):
            self.model(torch.ones(2, 4)).square().sum().backward()
            self.optimizer.step()
        self.made += count

    def is_right(self) -> bool:
        """Every step is counted and told, once."""
        right = self.agent._steps_done() == self.made == int(self.agent.coverage()["steps"])
        self.agent.close()
        steps: list[int] = told(self.folder)["steps"]["step"].tolist()
        return right and steps == list(range(1, self.made + 1))


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Trained]:
    """Closed in the end."""
    trained = Trained(tmp_path)
    yield trained
    trained.agent.close()


def test_a_stretch_goes_on_as_long_as_rests_follow(trained: Trained) -> None:
    """Rounds are only asked at its end; what the agent took is told of each step."""
    trained.step(100)
    assert trained.stretch.left
    assert trained.stretch.made >= 100
    assert trained.is_right()
    steps = told(trained.folder)["steps"]
    assert (steps["agent_seconds"] > 0).all()
    assert (steps["seconds"] > 0).all()
    assert (steps["time"][1:] >= steps["time"][:-1]).all()


def test_what_waits_is_told_by_a_flush(trained: Trained) -> None:
    """In the middle of a stretch, which goes on."""
    trained.agent.flush()
    assert told(trained.folder)["steps"]["step"][-1] == trained.made
    assert trained.stretch.left
    trained.step(3)
    assert trained.is_right()


def test_another_optimizer_ends_it(trained: Trained) -> None:
    """From its first step on two make a round."""
    other = SGD([next(trained.model.parameters())], lr=0.1)
    for _ in range(20):
        trained.step()
        other.step()
    trained.agent.flush()
    assert not trained.stretch.left
    # The first of them is taken for one that replaces the optimizer, until that steps again.
    assert trained.agent._steps_done() - trained.made <= 1


def test_anothers_optimizer_does_not(trained: Trained) -> None:
    """A model that is not attached trains beside."""
    stranger = nn.Linear(2, 2)
    theirs = SGD(stranger.parameters(), lr=0.1)
    for _ in range(5):
        trained.step()
        stranger(torch.ones(1, 2)).sum().backward()
        theirs.step()
    assert trained.stretch.left == 1
    assert trained.is_right()


def test_a_phantom_step_is_none(trained: Trained) -> None:
    """No rate, no gradient: not counted, and what follows is."""
    trained.optimizer.zero_grad()
    trained.optimizer.param_groups[0]["lr"] = 0.0
    trained.optimizer.step()
    trained.optimizer.param_groups[0]["lr"] = 0.1
    trained.step(10)
    assert trained.is_right()


def test_a_step_that_raises_is_none(trained: Trained) -> None:
    """The hook before it was called, that after it was not."""

    def fail() -> float:
        raise KeyError

    with pytest.raises(KeyError):
        trained.optimizer.step(fail)
    trained.step(10)
    assert trained.is_right()


def test_a_step_within_a_step_is_part_of_it(trained: Trained) -> None:
    """An optimizer of ours that another one of ours calls."""
    inner = SGD(trained.model.parameters(), lr=0.1)

    def closure() -> float:
        inner.step()
        return 0.0

    trained.optimizer.step(closure)
    trained.made += 1
    trained.step(10)
    assert trained.is_right()


def test_a_tensors_rate_is_read_at_each_step(trained: Trained) -> None:
    """A rate that changes in place, under the same object."""
    rate = trained.optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    for _ in range(5):
        rate /= 2
        trained.step()
    trained.agent.close()
    groups = told(trained.folder)["groups"]
    assert groups["lr"][-5:].tolist() == [0.25, 0.125, 0.0625, 0.03125, 0.015625]


def test_a_decay_that_changes_is_told(trained: Trained) -> None:
    """At the step that is made with it, as a rate is."""
    trained.step()
    trained.optimizer.param_groups[0]["weight_decay"] = 0.5
    trained.step()
    trained.agent.close()
    groups = told(trained.folder)["groups"]
    assert (groups["step"][-1], groups["weight_decay"][-1]) == (trained.made, 0.5)


def test_steps_that_a_scaler_makes_and_skips_are_told_apart(trained: Trained) -> None:
    """A skipped one has no hook: seen by the count of those that began."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for attempt in range(10):
        trained.optimizer.zero_grad()
        loss = trained.model(torch.ones(2, 4)).sum()
        scaler.scale(loss * (float("inf") if attempt == 4 else 1.0)).backward()
        scaler.step(trained.optimizer)
        scaler.update()
    trained.made += 9
    events = [each for each in trained.agent._record._events if isinstance(each, StepsAttempted)]
    assert [(each.attempts, each.skipped) for each in events] == [(10, 1)]
    assert trained.is_right()


@pytest.mark.parametrize(
    ("rate", "is_one"),
    [(1, True), (np.float64(0.1), True), (torch.tensor(0.1), False), (0.0, False)],
    ids=["int", "NumPy's", "a tensor's", "zero"],
)
def test_it_is_made_of_steps_whose_rate_is_seen_at_a_glance(
    trained: Trained, rate: Any, is_one: bool
) -> None:
    """Where that says nothing, none begins."""
    trained.step(6)
    trained.optimizer.param_groups[0]["lr"] = rate
    trained.step(20)
    assert bool(trained.stretch.left) == is_one
    assert trained.is_right()


def test_an_optimizer_without_groups_is_no_error(trained: Trained) -> None:
    """Nothing is updated, and nothing is switched off."""
    trained.optimizer.param_groups.clear()
    trained.step(3)
    assert not trained.agent._guard.off


def test_a_finding_is_told_at_the_next_step(trained: Trained) -> None:
    """Not when the stretch is over; and after a step, never before one."""
    told_at: list[int] = []
    answers = trained.agent._answers
    answers._on_finding = lambda _finding: told_at.append(trained.made)
    answers.take({"findings": [FINDING]})
    trained.step()
    assert told_at == [LOOKED + 3]
    assert trained.stretch.left == 5


def test_a_finding_that_is_raised_costs_no_step(trained: Trained) -> None:
    """Also where a stretch ends because the rate can't be seen at a glance any more."""
    answers = trained.agent._answers
    answers._on_finding = "raise"
    trained.optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    answers.take({"findings": [FINDING]})
    before = trained.model.weight.detach().clone()
    with pytest.raises(trainvitals.FindingRaised):
        trained.step()
    assert not torch.equal(trained.model.weight, before)


def test_no_closed_agent_counts(trained: Trained) -> None:
    """Nor does one that is silent: its hooks may be there for a while."""
    trained.agent._clock.silence()
    made = trained.stretch.made
    trained.step(3)
    assert trained.stretch.made == made
    assert not trained.stretch.left
