"""
Routers are found by structure; their loads are read right, whoever resets the counter when.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.agent.rig import Rig
from trainvitals.expert_load import effective
from trainvitals.probes.routing import Routing
from trainvitals.probes.routing.choices import Choices
from trainvitals.probes.routing.load import Load, follows
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


def _work_of_finding(count: int) -> int:
    """Functions called to find the routers among so many weights that all lie under one name."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(4, 4)) for _ in range(count)])
    slots = SlotTable([nn.ModuleDict({"weights": model})])
    calls = 0

    def count_call(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        assert find_routers(slots) == []
    finally:
        sys.setprofile(None)
    return calls


def test_many_weights_under_one_name_are_searched_once() -> None:
    """The work grows with their number, not with its square."""
    assert _work_of_finding(400) < 5 * _work_of_finding(100)


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


class Routes(nn.Module):
    """A router as transformers has them: scores, weights and choices."""

    def __init__(self, width: int = 6, experts: int = 4) -> None:
        super().__init__()
        self.top_k = 2
        self.weight = nn.Parameter(torch.randn(experts, width))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = nn.functional.linear(hidden, self.weight)
        weights, chosen = scores.softmax(-1).topk(self.top_k, -1)
        return scores, weights, chosen


class Mixture(nn.Module):
    """Stacked experts behind a router that keeps no counter, and is not called as any other is."""

    def __init__(self) -> None:
        super().__init__()
        self.chooser = Routes()
        self.w1 = nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        _, weights, chosen = self.chooser(hidden)
        mixed = torch.einsum("td,tkde->tke", hidden, self.w1[chosen])
        out: torch.Tensor = hidden + (mixed * weights[..., None]).sum(1)
        return out


def _count(output: object, *, chosen: int = 2, biased: bool = False) -> list[int] | None:
    counts = torch.zeros(5, dtype=torch.int64)
    tokens = Choices(4, chosen, biased).count(output, counts)
    return counts.tolist() if tokens else None


def test_choices_are_read_from_what_routers_return() -> None:
    """As numbers of experts, as a map, or as scores; numbers that no expert has are counted apart."""
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.0], [0.0, 0.9, 0.1, 0.5]])
    chosen = scores.topk(2, -1).indices
    assert _count((scores, torch.ones(2, 2), chosen)) == [0, 2, 1, 1, 0]
    assert _count((torch.ones(2, 4), chosen.int().view(1, 2, 2))) == [0, 2, 1, 1, 0]
    assert _count(torch.zeros(2, 4, dtype=torch.bool).scatter(1, chosen, True))[:4] == [0, 2, 1, 1]  # type: ignore[index]
    assert _count(scores) == [0, 2, 1, 1, 0]
    assert _count((scores, torch.tensor([[1, 4], [-1, 99]]))) == [0, 1, 0, 0, 3]


def test_what_may_be_no_choice_is_not_read() -> None:
    """Scores that a bias is added to, or of which nobody says how many are taken; one dim; nothing."""
    scores = torch.randn(3, 4)
    assert _count(scores, biased=True) is None
    assert _count(scores, chosen=0) is None
    assert _count((torch.randn(3, 6), torch.arange(6))) is None
    assert _count((torch.randn(0, 4), None)) is None


def test_many_tokens_are_sampled() -> None:
    """Evenly over all of them."""
    chosen = torch.arange(40_000).remainder(4).view(-1, 1)
    counts = _count(chosen, chosen=1)
    assert counts is not None
    assert sum(counts) == 40_000 // 3 + 1
    assert max(counts[:4]) - min(counts[:4]) <= 1


def test_a_router_of_any_name_is_found_and_heard() -> None:
    """From the second step on; without the number of choices, a layer of four classes is no router."""
    model = Mixture()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(50, 6)).square().sum().backward()
        with torch.no_grad():
            model(torch.randn(7, 6))  # an evaluation is not counted
        rig.round(optimizer)
    assert list(rig.rows("routing", "chooser.weight")) == [2, 3]
    assert rig.row("routing", "chooser.weight")["recent_tokens"] == 200
    del model.chooser.__dict__["top_k"]
    assert find_routers(SlotTable([model])) == []


def test_a_router_that_is_compiled_no_more_is_heard() -> None:
    """From the next look for routers on, which is made when tensors come or go."""
    model = Mixture()
    model.chooser._compiled_call_impl = model.chooser._call_impl
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        if step == 2:
            model.chooser._compiled_call_impl = None
            model.register_buffer("late", torch.zeros(1))
        model(torch.randn(50, 6)).square().sum().backward()
        rig.round(optimizer)
    assert list(rig.rows("routing", "chooser.weight"))[-1] == 5


def test_a_copied_or_pickled_model_has_none_of_our_hooks(tmp_path: Path) -> None:
    """They work, and load where this package is not installed; closing takes the model's own hook off."""
    model = Mixture()
    rig = Rig(model)
    model(torch.randn(5, 6)).sum().backward()
    rig.round(torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(model.chooser._forward_hooks) == 1
    torch.save(model, tmp_path / "model.pt")
    assert b"trainvitals" not in pickle.dumps(next(iter(model.chooser._forward_hooks.values())))
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for twin in (copy.deepcopy(model), loaded):
        assert torch.equal(twin(torch.ones(2, 6)), model(torch.ones(2, 6)))
    for probe in rig.probes:
        probe.close()
    assert not model.chooser._forward_hooks


def test_a_compiled_function_that_calls_the_model_keeps_its_graph() -> None:
    """That can't be seen from the model: the hook is placed, traced to nothing, and said to have heard nothing."""
    model = Mixture()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch._dynamo.reset()
    counters.clear()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(hidden).square().mean()
        return loss

    for _ in range(4):
        forward(torch.randn(8, 6)).backward()
        rig.round(optimizer)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    routing = next(probe for probe in rig.probes if isinstance(probe, Routing))
    assert "of 1 routers no choice was seen" in routing.limits()[0]
    routing.close()
    assert "of 1 routers no choice was seen" in routing.limits()[0]
    assert routing.touched() == []
