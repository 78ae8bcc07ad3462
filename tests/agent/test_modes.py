"""The modes probe against real modules and optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.agent.rig import Rig
from trainvitals.frame import ModesSeen
from trainvitals.probes.modes import MODULES_A_LOOK, SETTLED_LOOKS
from trainvitals.rests import IN_A_ROW, MAX_RESTS


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def _train(rig: Rig, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        rig.round(optimizer)


def _seen(rig: Rig) -> list[ModesSeen]:
    return [event for event in rig.events if isinstance(event, ModesSeen)]


def test_the_first_step_tells_the_modes() -> None:
    """Modules that own tensors, dropouts and batch norms are counted, and none is in eval mode."""
    model = _net()
    rig = Rig(model)
    _train(rig, model, torch.optim.SGD(model.parameters(), lr=0.1), steps=6)
    (first,) = _seen(rig)
    assert (first.step, first.since, first.modules, first.evaluating) == (1, 1, 3, 0)
    assert (first.dropouts, first.batch_norms, first.tensors) == (1, 1, [])


def test_a_model_left_in_eval_mode_is_told_when_that_has_settled() -> None:
    """The event comes some steps later, and says with which step it began."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _train(rig, model, optimizer, steps=5)
    model.eval()
    _train(rig, model, optimizer, steps=10)
    _, unsettled, left = _seen(rig)
    assert (unsettled.step, unsettled.settled) == (6, False)
    assert (left.step, left.since, left.settled) == (5 + SETTLED_LOOKS, 6, True)
    assert (left.evaluating, left.dropouts_evaluating, left.batch_norms_evaluating) == (3, 1, 1)
    assert left.tensors == list(range(len(rig.slots)))


def test_an_evaluation_between_two_steps_is_no_news() -> None:
    """The mode counts in which gradients are made."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        _train(rig, model, optimizer)
        model.eval()
        model(torch.randn(8, 4))
        model.train()
    assert len(_seen(rig)) == 1


def test_a_mode_that_changes_at_every_step_is_told_once() -> None:
    """That modes are unsettled; each change would flood the wire."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(20):
        model.train(step % 2 == 0)
        _train(rig, model, optimizer)
    assert [event.settled for event in _seen(rig)] == [True, False]


def test_a_mode_that_comes_back_is_told_when_it_has_settled() -> None:
    """What was seen in between has ended how long the first one lasted."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for training in (True, False, True):
        model.train(training)
        _train(rig, model, optimizer, steps=2 if not training else 6)
    assert [(event.settled, event.since) for event in _seen(rig)] == [
        (True, 1),
        (False, 7),
        (True, 9),
    ]


def test_a_player_that_waits_may_be_in_any_mode() -> None:
    """The generator is in eval mode whenever the discriminator steps: that is not a mode it is trained in."""
    generator, critic = _net(), _net()
    rig = Rig(generator, critic)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (generator, critic)]
    for optimizer in optimizers:
        rig.slots.holding(optimizer)
    for _ in range(12):
        for model, optimizer in zip((generator, critic), optimizers, strict=True):
            generator.train(model is generator)
            critic.train(model is critic)
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            rig.round(optimizer)
    assert all(event.tensors == [] for event in _seen(rig))


def test_a_teacher_in_eval_mode_is_told_and_nothing_else() -> None:
    """What no optimizer holds is told as it is."""
    student, teacher = _net(), _net().eval().requires_grad_(False)
    rig = Rig(nn.ModuleDict({"student": student, "teacher": teacher}))
    _train(rig, student, torch.optim.SGD(student.parameters(), lr=0.1), steps=3)
    (seen,) = _seen(rig)
    assert {rig.slots.fqn(index).partition(".")[0] for index in seen.tensors} == {"teacher"}
    assert (seen.dropouts, seen.dropouts_evaluating) == (2, 1)


def test_a_replaced_module_is_found() -> None:
    """A walk that finds another module in the place makes the probe look at that one."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _train(rig, model, optimizer, steps=3)
    model[1] = nn.BatchNorm1d(4).eval()
    _train(rig, model, optimizer, steps=8)
    assert _seen(rig)[-1].batch_norms_evaluating == 1


def test_statistics_switched_off_are_told() -> None:
    """A batch norm that keeps buffers and was told not to track them is in train mode all the same."""
    model = _net()
    rig = Rig(model)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.track_running_stats = False
    _train(rig, model, torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
    (seen,) = _seen(rig)
    assert {rig.slots.fqn(index) for index in seen.untracked} >= {"1.running_mean", "1.weight"}
    assert seen.tensors == []


def test_a_dropout_rate_that_becomes_zero_is_told_with_the_rates_before() -> None:
    """One that is lowered is no news."""
    model = _net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _train(rig, model, optimizer, steps=5)
    dropout = model[2]
    assert isinstance(dropout, nn.Dropout)
    dropout.p = 0.25
    _train(rig, model, optimizer, steps=5)
    dropout.p = 0.0
    _train(rig, model, optimizer, steps=5)
    first, lost = (event for event in _seen(rig) if event.settled)
    assert (first.dropout_rates, first.dropout_rates_before) == ([0.5], [])
    assert (lost.dropout_rates, lost.dropout_rates_before) == ([0.0], [0.25])
    assert lost.since == 11


@pytest.mark.parametrize("period", [2, 3])
def test_a_large_model_is_read_at_some_looks_whatever_their_steps_are(period: int) -> None:
    """Rests come in such numbers that the steps between them may leave the same remainders for ever."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(period * MODULES_A_LOOK)))
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(period * SETTLED_LOOKS):
        _train(rig, model, optimizer, steps=IN_A_ROW)
        rig.rest(rounds=MAX_RESTS)
        model.eval()
    assert [(event.settled, event.evaluating) for event in _seen(rig)] == [
        (True, 0),
        (False, period * MODULES_A_LOOK),
        (True, period * MODULES_A_LOOK),
    ]
