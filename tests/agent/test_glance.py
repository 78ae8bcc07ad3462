"""Glances: of many slots, those that changed are suspects, whatever the others do and whichever torch it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainvitals import glance
from trainvitals.slots import SlotTable


class Many(nn.Module):
    """More tensors than one block holds, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(glance.BLOCK)])
        self.cache: torch.Tensor
        self.register_buffer("cache", torch.zeros(2))


def changes(table: SlotTable) -> dict[str, list[str]]:
    """By name, as a look at all slots finds them."""
    return {table.fqn(event.tensor): event.changes for event in table.check(None, 1)}


def replace(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.ones(3, 3))


def swap_data(layer: nn.Linear) -> None:
    layer.weight.data = torch.ones(3, 3)


def view_it(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.view(9)


def reread_it(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.view(torch.int32).view(torch.float32)[:, :2]


def freeze(layer: nn.Linear) -> None:
    layer.weight.requires_grad_(False)


def hide(layer: nn.Linear) -> None:
    object.__setattr__(layer, "weight", torch.ones(3, 3))


def drop(layer: nn.Linear) -> None:
    layer._parameters["weight"] = None


def put_nonsense(layer: nn.Linear) -> None:
    layer._parameters["weight"] = "weight"  # type: ignore[assignment]


CHANGES: list[tuple[Callable[[nn.Linear], None], list[str]]] = [
    (replace, ["object", "storage"]),
    (swap_data, ["storage"]),
    (view_it, ["shape"]),
    (reread_it, ["shape"]),
    (freeze, ["trainable"]),
    (hide, ["object", "storage", "trainable"]),
    (drop, ["lost"]),
    (put_nonsense, ["lost"]),
]


@pytest.fixture(params=["torch's guards", "no guards"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SlotTable:
    """With what torch.compile compares inputs by, and on a torch that lacks it; looked at twice."""
    if request.param == "no guards":
        monkeypatch.setattr(glance, "_guards", lambda _tensors: None)
    model = Many()
    table = SlotTable([model])
    table.kept = model  # type: ignore[attr-defined]
    assert changes(table) == changes(table) == {}
    return table


def layer_of(table: SlotTable, number: int) -> nn.Linear:
    """One of the model's layers."""
    model: Many = table.models[0]  # type: ignore[assignment]
    return model.layers[number]  # type: ignore[return-value]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
@pytest.mark.parametrize("number", [0, glance.BLOCK // 2, glance.BLOCK - 1])
def test_each_change_is_seen_once(
    table: SlotTable, change: Callable[[nn.Linear], None], expected: list[str], number: int
) -> None:
    """In the first block and in the last, at the look after it; and another one after that."""
    keep_storage_taken = layer_of(table, number).weight.data
    change(layer_of(table, number))
    assert changes(table) == {f"layers.{number}.weight": expected}
    assert changes(table) == {}
    freeze(layer_of(table, 1))
    assert changes(table) == {"layers.1.weight": ["trainable"]}
    assert keep_storage_taken is not None


def test_a_buffer_that_is_replaced_at_every_step_hides_nothing(table: SlotTable) -> None:
    """Ids that are used again are told by deaths; its neighbours are compared all the same."""
    model: Many = table.models[0]  # type: ignore[assignment]
    for step in range(40):
        model.cache = model.cache + 1
        found = changes(table)
        assert found.pop("cache")[0] == "object"
        assert found == {}
        if step == 20:
            freeze(layer_of(table, 3))
            assert changes(table) == {"layers.3.weight": ["trainable"]}


def test_a_change_that_is_taken_back_between_looks_at_some(table: SlotTable) -> None:
    """What a look at some slots took as right is what the next look at all compares with."""
    layer = layer_of(table, 5)
    index = table.index_of(layer.weight)
    assert index is not None
    layer.weight.requires_grad_(False)
    assert [event.changes for event in table.check([index], 1)] == [["trainable"]]
    layer.weight.requires_grad_(True)
    assert changes(table) == {"layers.5.weight": ["trainable"]}


def test_other_modes_are_no_change(table: SlotTable) -> None:
    """Autocast, inference and no-grad modes, in which guards see other tensors, and back."""
    with torch.autocast("cpu", torch.bfloat16):
        assert changes(table) == changes(table) == {}
    with torch.inference_mode():
        assert changes(table) == {}
    with torch.no_grad():
        assert changes(table) == {}
    freeze(layer_of(table, 7))
    assert changes(table) == {"layers.7.weight": ["trainable"]}


def test_nothing_is_kept_alive(table: SlotTable) -> None:
    """Neither what a slot held nor the model."""
    layer = layer_of(table, 9)
    gone = weakref.ref(layer.weight)
    layer.weight = nn.Parameter(torch.ones(3, 3))
    assert gone() is None
    assert "object" in changes(table)["layers.9.weight"]


def test_a_module_that_is_gone() -> None:
    """Its slots are looked at as before, and so are all others, when the columns are made after its death too."""
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    table = SlotTable([nn.Sequential(*layers)])
    del layers[0]
    for _ in range(2):
        assert changes(table) == {}
    freeze(layers[0])
    assert changes(table) == {"1.weight": ["trainable"]}
