"""
Routers are found by structure; their loads are read right, whoever resets the counter when.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from tests.agent.rig import Rig
from trainvitals.probes.routing.load import Load, effective, follows
from trainvitals.routers import find_routers
from trainvitals.slots import SlotTable


def _loads(*counts: Sequence[float], writes: Sequence[int] | None = None) -> list[object]:
    load = Load()
    found = [
        load.read(np.array(each, np.float64), number if writes is None else writes[number])
        for number, each in enumerate(counts)
    ]
    return [None if one is None else one.tolist() for one in found]


def test_a_counter_that_only_grows_is_read_by_differences() -> None:
    """What it held at the first look may be of long ago."""
    assert _loads([100, 50], [104, 52], [105, 57]) == [None, [4, 2], [1, 5]]


def test_a_counter_that_is_reset_at_every_step_is_read_as_it_is() -> None:
    """Also where a step's counts are by chance smaller nowhere."""
    assert _loads([4, 2], [1, 5], [3, 5], [2, 4]) == [None, [1, 5], [3, 5], [2, 4]]


def test_equal_counts_are_new_ones_if_the_counter_was_written_to() -> None:
    """A collapsed router counts the same at every step; an evaluation counts nothing."""
    assert _loads([6, 0], [6, 0], [6, 0], writes=[2, 4, 4]) == [None, [6, 0], None]


def test_a_counter_that_is_zeroed_too_early_says_nothing() -> None:
    """Nor does one that holds no counts."""
    assert _loads([0, 0], [0, 0], [float("nan"), 1], [-1, 1]) == [None] * 4
    assert _loads([0, 0], [3, 1]) == [None, [3, 1]]


def test_effective_experts_are_those_of_equal_loads() -> None:
    """Between one and all."""
    assert effective(np.array([5.0, 5.0, 0.0])) == pytest.approx(2.0)
    assert effective(np.array([9.0, 0.0, 0.0])) == pytest.approx(1.0)


def test_a_bias_follows_the_load_or_moves_against_it() -> None:
    """A bias that stands still, or moves all alike, does neither."""
    load = np.array([9.0, 1.0, 2.0])
    assert follows(0.01 * load, load) == pytest.approx(1.0)
    assert follows(-0.01 * np.sign(load - load.mean()), load) < -0.9  # type: ignore[operator]
    assert follows(np.zeros(3), load) is None
    assert follows(np.full(3, 0.01), load) is None


class Stacked(nn.Module):
    """Experts in one tensor, a counter and a bias beside them."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.top_k = 2
        self.gate = nn.Linear(6, experts, bias=False)
        self.w1 = nn.Parameter(torch.randn(experts, 6, 6))
        self.register_buffer("expert_bias", torch.zeros(experts))
        self.register_buffer("tokens_per_expert", torch.zeros(experts))


class Listed(nn.Module):
    """Experts that are modules, as in Mixtral."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(6, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(experts))


class Gated(nn.Module):
    """A gated convolution: a gate, and a weight of three dims, but no experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)
        self.mix = nn.Conv1d(6, 6, 3)


def test_routers_are_found_by_what_lies_beside_them() -> None:
    """One a mixture, whatever names its experts have; none where there are no experts."""
    model = nn.ModuleDict({"a": Stacked(), "b": Listed(), "c": Gated()})
    slots = SlotTable([model])
    stacked, listed = find_routers(slots)
    assert (stacked.experts, stacked.chosen) == (4, 2)
    names = [slots.fqn(index) for index in (stacked.counter, stacked.bias, stacked.stack)]
    assert names == ["a.tokens_per_expert", "a.expert_bias", "a.w1"]
    assert listed.counter == listed.bias == listed.stack == -1
    assert [slots.fqn(index) for index in listed.listed] == [
        f"b.experts.{number}.weight" for number in range(4)
    ]


def test_loads_are_read_before_a_pre_hook_that_resets_them_can_hide_them() -> None:
    """As the rig's rounds are: read before the step, reset after it."""
    model = Stacked()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counter, bias = model.get_buffer("tokens_per_expert"), model.get_buffer("expert_bias")
    for _ in range(3):
        counter.add_(torch.tensor([6.0, 2.0, 0.0, 0.0]))
        model.w1.square().sum().backward()
        rig.round(optimizer)
        bias.add_(0.01 * torch.sign(counter.mean() - counter))
        counter.zero_()
    row = rig.row("routing", "tokens_per_expert")
    assert row["effective_experts"] == pytest.approx(1.7548, rel=1e-4)
    assert row["unused"] == 2
    assert row["recent_tokens"] == 16
    assert rig.row("balancing", "expert_bias")["follows"] < -0.5


def test_experts_without_a_gradient_are_counted() -> None:
    """In one tensor and in a list, where an expert that was not called has none at all."""
    model = nn.ModuleDict({"a": Stacked(), "b": Listed()})
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    experts = model["b"].get_submodule("experts")
    model.get_parameter("a.w1")[:3].square().sum().backward()
    experts.get_submodule("1")(torch.ones(2, 6)).square().sum().backward()
    rig.round(optimizer)
    assert rig.row("feeding", "a.w1")["unfed"] == 1
    assert rig.row("feeding", "a.w1")["fed"] == 3
    assert rig.row("feeding", "b.experts.0.weight")["unfed"] == 3
