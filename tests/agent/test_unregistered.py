"""The unregistered probe against real modules and optimizers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch import nn

from tests.agent.rig import Rig
from trainvitals.frame import UnregisteredSeen, UnregisteredTensor
from trainvitals.probes.unregistered import TOLD_AT
from trainvitals.unregistered import find_unregistered, saved_in


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.layers: Any = [nn.Linear(4, 4), {"norm": nn.LayerNorm(4)}]
        self.running = torch.zeros(4)
        self.again, self.part = [self.stem], self.stem.weight.data[:2]
        self.drawn = torch.zeros(4)
        self.still = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[1]["norm"](self.layers[0](self.stem(x)))
        self.running = 0.9 * self.running + 0.1 * x.detach().mean(0)
        self.running_output = x
        self.drawn = torch.randn(4)
        return x


def _train(rig: Rig, model: nn.Module, steps: int, *others: nn.Module) -> None:
    parameters = [each for one in (model, *others) for each in one.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4) + 1).square().mean().backward()
        rig.round(optimizer)


def _seen(rig: Rig) -> dict[str, UnregisteredTensor]:
    """As it was told last."""
    events = [event for event in rig.events if isinstance(event, UnregisteredSeen)]
    return {one.fqn: one for one in events[-1].tensors} if events else {}


def test_layers_in_a_list_have_gradients_and_rest() -> None:
    """Names are written as a user would; what is registered, computed or at rest is left out."""
    model = _Net()
    rig = Rig(model)
    _train(rig, model, TOLD_AT[1])
    seen = _seen(rig)
    assert set(seen) == {
        "layers[0].weight",
        "layers[0].bias",
        "layers[1]['norm'].weight",
        "layers[1]['norm'].bias",
        "running",
        "drawn",
    }
    weight = seen["layers[0].weight"]
    assert (weight.module, weight.shape, weight.trainable, weight.held) == ("Linear", [4, 4], True, False)  # fmt: skip
    assert (weight.looks, weight.gradients, weight.moves) == (TOLD_AT[1], TOLD_AT[1] - 1, 0)


def test_an_average_goes_on_and_what_is_drawn_anew_does_not() -> None:
    """The drift tells them apart."""
    model = _Net()
    rig = Rig(model)
    _train(rig, model, TOLD_AT[2])
    seen = _seen(rig)
    assert seen["running"].drift > 1.6
    assert 0.6 < seen["drawn"].drift < 1.4
    assert seen["running"].from_start


def test_what_an_optimizer_holds_is_told_so() -> None:
    """Then it moves."""
    model = _Net()
    rig = Rig(model)
    _train(rig, model, TOLD_AT[0], model.layers[0])
    weight = _seen(rig)["layers[0].weight"]
    assert weight.held
    assert weight.moves == TOLD_AT[0]


def test_a_model_without_such_tensors_is_left_alone() -> None:
    """No event at all; constants and references are none."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True).requires_grad_(True))
    first: Any = model[0]
    first.note = [model[1].weight_ih_l0, torch.ones(3), "text", 3]
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 4))[0].sum().backward()
        rig.round(optimizer)
    assert not _seen(rig)


def test_nothing_is_held_strongly() -> None:
    """A layer that is thrown out of the list is freed at once."""
    model = _Net()
    rig = Rig(model)
    _train(rig, model, 3)
    layer = weakref.ref(model.layers[0])
    model.layers[0] = nn.Linear(4, 4)
    gc.collect()
    assert layer() is None


def test_a_save_is_searched_by_key_by_value_and_for_whole_modules() -> None:
    """Each way of saving such a tensor counts."""
    model = _Net()
    places = find_unregistered([model])
    state = model.state_dict()
    assert saved_in(state, places) == []
    assert saved_in({**state, "running": [0.0]}, places) == ["running"]
    model.running = torch.rand(4)
    assert saved_in([state, (model.running.clone(),)], places) == ["running"]
    assert "layers[0].weight" in saved_in({"state": model.layers[0].state_dict()}, places)
    assert len(saved_in({"model": model}, places)) == len(places)
