"""
What a trainer says of this rank's place, in words; and what it may not say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainvitals
from trainvitals.mesh import mesh_text
from trainvitals.slots import SlotTable


class Mesh:
    """As much of a DeviceMesh as is asked for: a real one needs a process group (tests/trainers has those)."""

    mesh_dim_names = ("dp", "tp")
    shape = (2, 4)

    def __init__(self, *where: int) -> None:
        self._where = list(where)

    def get_coordinate(self) -> list[int] | None:
        return self._where or None


def test_a_place_in_words() -> None:
    """Axes of one rank are left out."""
    assert mesh_text(None) == ""
    assert mesh_text({"pp": (0, 1), "dp": (1, 2), "tp": [0, 4]}) == "dp=1/2 tp=0/4"
    assert mesh_text(Mesh(1, 0)) == "dp=1/2 tp=0/4"
    assert mesh_text(Mesh()) == ""  # one that has no part in it, such as a generator's process


@pytest.mark.parametrize("mesh", [{"dp": 2}, {"dp": (2, 2)}, {"dp": (0.0, 2)}, {"a b": (0, 2)}, 3])
def test_what_is_no_place_is_refused(mesh: Any, tmp_path: Path) -> None:
    """With a sentence."""
    with pytest.raises(trainvitals.BadSetting, match="coordinate and size"):
        trainvitals.attach(nn.Linear(2, 2), mesh=mesh, monitor=str(tmp_path), quiet=True)


def test_replicas_are_what_the_trainer_declares() -> None:
    """Of plain tensors, where it names several ranks; else nothing is known."""
    model = nn.Linear(2, 2)
    told = {id(model.weight): [3, 1], id(model.bias): [2]}
    slots = SlotTable([model], world_size=4, replicas=lambda tensor: told[id(tensor)])
    weight, bias = slots.layout(0), slots.layout(1)
    assert (weight.kind, weight.replica_group) == ("replica", "1-3:2")
    assert (bias.kind, bias.replica_group) == ("unknown", "")


def test_a_declaration_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on, and the layout is unknown."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def broken(_tensor: torch.Tensor) -> list[int]:
        raise RuntimeError("no such group")

    model = nn.Linear(2, 2)
    agent = trainvitals.attach(model, replicas=broken, monitor=str(tmp_path), quiet=True)
    assert agent.coverage()["switched_off"] == {}
    assert agent.coverage()["failures"]["replicas"] >= 2
    assert "2 of 2 tensors is not declared" in agent.coverage()["limits"][0]
    agent.close()
