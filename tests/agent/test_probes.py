"""Probes against plain torch: what they report of real models and real optimizers is what torch computes."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import trainvitals.probes
import trainvitals.probes.probe as probe_module
import trainvitals.probes.updates as updates_module
from tests.agent.rig import Rig
from trainvitals.cores import cut, cut_many, digest_many
from trainvitals.frame import OptimizersSeen, SlotChanged
from trainvitals.probes import PROBES
from trainvitals.probes.identity import REPEAT_STEPS, SHOWN_IN_A_ROW
from trainvitals.probes.loss import Log
from trainvitals.probes.probe import Choice, Probe
from trainvitals.record import Record


class Net(nn.Module):
    """A large layer (more than 4,096 elements), a small one, and a buffer of a watched name."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Linear(300, 40)
        self.small = nn.Linear(40, 4)
        self.expert_bias: torch.Tensor
        self.register_buffer("expert_bias", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.small(torch.relu(self.large(x)))
        return y + self.expert_bias


def train(
    rig: Rig, model: nn.Module, *optimizers: Optimizer, steps: int = 1, width: int = 300
) -> None:
    """Some steps on noise."""
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        generator = torch.Generator().manual_seed(rig.step)
        model(torch.randn(8, width, generator=generator)).square().mean().backward()
        rig.round(*optimizers)


def norm(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().norm())


def test_every_probe_is_listed() -> None:
    """A probe's file that is missing in PROBES would never run. `Checkpoints` is made by the agent itself."""
    folder = Path(trainvitals.probes.__file__).parent
    parts = [*folder.glob("*.py"), *(path.parent for path in folder.glob("*/__init__.py"))]
    files = {path.stem for path in parts} - {"__init__", "probe", "loss", "checkpoint"}
    assert files == {probe.__module__.rsplit(".", 1)[1] for probe in PROBES}
    assert all(issubclass(probe, Probe) and probe.name for probe in PROBES)


def test_norms_are_exact_for_small_and_swept_tensors() -> None:
    """With everything looked at, every norm is that of all elements, of buffers too."""
    model = Net()
    rig = Rig(model)
    train(rig, model, torch.optim.AdamW(model.parameters(), lr=0.01), steps=3)
    for fqn, tensor in [*model.named_parameters(), *model.named_buffers()]:
        row = rig.row("values", fqn)
        assert row["norm"] == pytest.approx(norm(tensor), rel=1e-6)
        assert (row["exact"], row["nonfinite"]) == (1, 0)


def test_norms_from_cores_are_scaled_up_and_say_so() -> None:
    """A large tensor that is not swept is known to a few percent, and marked as inexact."""
    model = Net()
    rig = Rig(model)
    rig.round(torch.optim.SGD(model.parameters(), lr=0.1), choice=Choice(cores=range(5)))
    row = rig.row("values", "large.weight")
    assert row["exact"] == 0
    assert row["norm"] == pytest.approx(norm(model.large.weight), rel=0.05)
    assert rig.row("values", "small.weight")["exact"] == 1


def test_cores_that_are_cut_in_parts_say_what_they_say_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many parts the tensors are cut in, every row of every table is the same, to the bit."""
    told = []
    for elements in (1 << 20, 1000):
        monkeypatch.setattr(probe_module, "PART_ELEMENTS", elements)
        torch.manual_seed(0)
        model = Net()
        rig = Rig(model)
        train(rig, model, torch.optim.AdamW(model.parameters(), lr=0.01), steps=20)
        names = [info.fqn for info in rig.infos]
        tables = ("values", "updates", "digests", "extremes", "beginning", "gradients", "moments")
        told.append([rig.rows(table, fqn) for table in tables for fqn in names])
    assert told[0] == told[1]


def test_no_two_cuts_of_all_tensors_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many tensors there are the cores that are kept, and those of the part that is being looked at."""
    model = nn.ParameterList(nn.Parameter(torch.randn(16, 16)) for _ in range(64))
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    held: list[int] = []

    def cut_and_count(*args: Any) -> list[torch.Tensor]:
        cuts = cut_many(*args)
        alive.update(cuts)
        held.append(sum(cut.numel() for cut in alive))
        return cuts

    monkeypatch.setattr(probe_module, "PART_ELEMENTS", 4096)
    for module in (probe_module, updates_module):
        monkeypatch.setattr(module, "cut_many", cut_and_count)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        rig.round(optimizer)
    kept = sum(parameter.numel() for parameter in model.parameters())
    # A part may be one tensor larger than it should, and the one before goes when the next has come.
    assert kept < max(held) <= kept + 3 * 4096


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_elements_are_counted_exactly(bad: float) -> None:
    """One bad element of a large tensor is found by the sweep, wherever it is; a small tensor's by its cores."""
    model = Net()
    rig = Rig(model)
    with torch.no_grad():
        model.large.weight[17, 3] = bad
        model.small.weight[2, 1:3] = bad
    rig.round(torch.optim.SGD(model.parameters(), lr=0.1))
    assert rig.row("values", "large.weight")["nonfinite"] == 1
    assert rig.row("values", "small.weight")["nonfinite"] == 2
    assert rig.row("values", "large.bias")["nonfinite"] == 0


def test_a_large_tensor_with_a_bad_core_is_swept_at_once() -> None:
    """The cores see that something is wrong; the count is still of all elements."""
    model = Net()
    rig = Rig(model)
    with torch.no_grad():
        model.large.weight.fill_(float("nan"))
    rig.round(torch.optim.SGD(model.parameters(), lr=0.1), choice=Choice(cores=range(5)))
    row = rig.row("values", "large.weight")
    assert (row["exact"], row["nonfinite"]) == (1, model.large.weight.numel())


def test_ranges_are_told_of_watched_tensors_and_small_buffers() -> None:
    """An expert bias has its smallest and largest element reported, a plain weight has not."""
    model = Net()
    rig = Rig(model)
    model.expert_bias.copy_(torch.tensor([-2.0, 1.0, 0.5, 3.0]))
    rig.round(torch.optim.SGD(model.parameters(), lr=0.1))
    row = rig.row("extremes", "expert_bias")
    assert (row["low"], row["high"], row["total"]) == (-2.0, 3.0, 2.5)
    assert not rig.rows("extremes", "small.weight")


def test_updates_are_what_the_step_changed() -> None:
    """Of small tensors the update norm is exact, of large ones near; every element that moved is counted."""
    model = Net()
    rig = Rig(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(rig, model, optimizer)
    before = {fqn: tensor.detach().clone() for fqn, tensor in model.named_parameters()}
    train(rig, model, optimizer)
    for fqn, tensor in model.named_parameters():
        row = rig.row("updates", fqn)
        tolerance = 0.05 if fqn == "large.weight" else 1e-5
        assert row["update_norm"] == pytest.approx(norm(tensor - before[fqn]), rel=tolerance)
        assert row["since"] == 1
    small = rig.row("updates", "small.weight")
    gradient = model.small.weight.grad
    assert gradient is not None
    assert small["looked"] == 160
    assert small["changed"] == int((model.small.weight != before["small.weight"]).sum())
    assert small["with_gradient"] == int((gradient != 0).sum())
    assert small["lost"] == 0
    assert rig.row("updates", "expert_bias")["changed"] == 0


def test_updates_below_one_ulp_are_counted_as_lost() -> None:
    """In bf16 a small step leaves elements with a gradient unchanged: exactly those are lost."""
    model = nn.Linear(50, 20).bfloat16()
    with torch.no_grad():
        model.weight.uniform_(0.5, 1.0)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.weight.detach().clone()
    model(torch.randn(4, 50).bfloat16()).sum().backward()
    rig.round(optimizer)
    gradient = model.weight.grad
    assert gradient is not None
    row = rig.row("updates", "weight")
    lost = (gradient != 0) & (model.weight == before)
    assert row["lost"] == int(lost.sum()) > 100
    assert row["with_gradient"] == int((gradient != 0).sum())


def test_since_counts_the_steps_of_the_optimizer_that_holds_the_tensor() -> None:
    """A GAN's generator that steps once in three rounds is compared then, over one step of its own."""
    generator, critic = nn.Linear(4, 4), nn.Linear(4, 1)
    rig = Rig(generator, critic)
    slow = torch.optim.SGD(generator.parameters(), lr=0.1)
    fast = torch.optim.SGD(critic.parameters(), lr=0.1)
    for number in range(1, 7):
        critic(generator(torch.ones(2, 4))).sum().backward()
        rig.round(*([fast, slow] if number % 3 == 0 else [fast]))
    # Until it first steps, nobody is known to hold the generator: rounds count.
    held = {
        step: row["since"]
        for step, row in rig.rows("updates", "model0.weight").items()
        if step >= 3
    }
    assert held == {3: 1, 6: 1}
    assert [row["since"] for row in rig.rows("updates", "model1.weight").values()] == [1] * 6


def test_looks_that_are_apart_span_the_steps_between() -> None:
    """A tensor whose turn comes every third step is compared over three steps."""
    model = nn.Linear(4, 2)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = model.weight.detach().clone()
    for number in range(1, 4):
        model(torch.ones(1, 4)).sum().backward()
        rig.round(optimizer, choice=Choice(cores=[0] if number == 3 else [1]))
    row = rig.row("updates", "weight")
    assert row["since"] == 3
    assert row["update_norm"] == pytest.approx(norm(model.weight - start), rel=1e-5)


def test_digests_are_told_of_the_start_and_of_the_first_step() -> None:
    """Two sets of digests: of the state that training starts from, and after its first step."""
    model = Net()
    rig = Rig(model, base_step=40)
    plans = [rig.slots.plan(index) for index in range(5)]
    parts = [tensor.detach() for tensor in map(rig.slots.tensor, range(5)) if tensor is not None]
    want = digest_many([cut(part, plan) for part, plan in zip(parts, plans, strict=True)], plans)
    train(rig, model, torch.optim.SGD(model.parameters(), lr=0.1), steps=3)
    assert sorted(rig.rows("digests", "large.weight")) == [40, 41]
    for fqn in ("large.weight", "small.bias", "expert_bias"):
        row = rig.rows("digests", fqn)[40]
        assert row["digest"] == want["digest"][rig.index(fqn)]
        assert row["sketch_3"] == want["sketch_3"][rig.index(fqn)]
    assert (
        rig.rows("digests", "small.bias")[41]["digest"] != want["digest"][rig.index("small.bias")]
    )


def test_gradients_are_read_before_the_step() -> None:
    """Norms are those that the optimizer used, even of a trainer whose optimizer frees them."""
    model = Net()
    rig = Rig(model)

    class Freeing(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step()
            self.zero_grad(set_to_none=True)

    model.large.bias.requires_grad_(False)
    model(torch.randn(8, 300)).square().mean().backward()
    model.small.bias.grad = None
    gradient = model.large.weight.grad
    assert gradient is not None
    rig.round(Freeing(model.parameters(), lr=0.1))
    row = rig.row("gradients", "large.weight")
    assert row["grad_norm"] == pytest.approx(norm(gradient), rel=1e-6)
    assert row["grad_missing"] == 0
    assert rig.row("gradients", "small.bias")["grad_missing"] == 1
    assert not rig.rows("gradients", "large.bias")
    assert not rig.rows("gradients", "expert_bias")


def test_gradients_that_no_optimizer_uses_are_read_once_a_round() -> None:
    """A layer that was replaced after its optimizer was made has gradients, and no optimizer."""
    body = nn.Linear(4, 4)
    model = nn.Sequential(body, nn.Linear(4, 4))
    weights = torch.optim.SGD([body.weight], lr=0.1)
    biases = torch.optim.SGD([body.bias], lr=0.1)
    model[1] = nn.Linear(4, 4)
    rig = Rig(model)
    for _ in range(2):
        model(torch.ones(1, 4)).sum().backward()
        rig.round(weights, biases)
        assert rig.row("gradients", "1.weight")["grad_norm"] > 0
        assert rig.row("updates", "1.weight")["changed"] == 0
    event = [event for event in rig.events if isinstance(event, OptimizersSeen)][-1]
    assert event.group_tensors == [[rig.index("0.weight")], [rig.index("0.bias")]]


def test_sparse_gradients_are_summed_per_row() -> None:
    """The norm of a sparse embedding's gradient is that of the dense one; untouched rows are no lost updates."""
    model = nn.Embedding(10, 4, sparse=True)
    dense = nn.Embedding(10, 4, _weight=model.weight.detach().clone())
    rig = Rig(model)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)
    for each in (model, dense):
        each(torch.tensor([1, 1, 3])).square().sum().backward()
    rig.round(optimizer)
    assert dense.weight.grad is not None
    assert rig.row("gradients", "weight")["grad_norm"] == pytest.approx(
        norm(dense.weight.grad), rel=1e-6
    )
    updates = rig.row("updates", "weight")
    assert (updates["changed"], updates["lost"]) == (8, 0)


def test_gradients_of_fp16_fused_optimizers_are_unscaled() -> None:
    """GradScaler leaves its scale on the optimizer: the reported norm is the true gradient's."""
    model = nn.Linear(4, 2)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=True)
    model(torch.ones(1, 4)).sum().backward()
    assert model.weight.grad is not None
    true_norm = norm(model.weight.grad)
    model.weight.grad *= 1024
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    rig.round(optimizer)
    assert rig.row("gradients", "weight")["grad_norm"] == pytest.approx(true_norm, rel=1e-6)


def test_master_weights_stand_for_the_models_tensors() -> None:
    """As in Megatron: bf16 weights, fp32 clones in the optimizer, gradients in main_grad, copied after the step."""
    model = nn.Linear(4, 2).bfloat16()
    masters = []
    for parameter in model.parameters():
        master = nn.Parameter(parameter.detach().float())
        parameter.main_param = master  # type: ignore[attr-defined]
        parameter.main_grad = torch.full_like(master, 0.5)  # type: ignore[attr-defined]
        masters.append(master)
    rig = Rig(model)
    optimizer = torch.optim.SGD(masters, lr=1.0)
    for parameter, master in zip(model.parameters(), masters, strict=True):
        master.grad = parameter.main_grad  # type: ignore[attr-defined]

    def copy_back(*_: object) -> None:
        for parameter, master in zip(model.parameters(), masters, strict=True):
            parameter.data.copy_(master)

    optimizer.register_step_post_hook(copy_back)
    rig.round(optimizer)
    (event,) = [one for one in rig.events if isinstance(one, OptimizersSeen)]
    assert isinstance(event, OptimizersSeen)
    assert (event.masters, event.group_tensors, event.foreign) == (True, [[0, 1]], [])
    assert rig.row("gradients", "weight")["grad_norm"] == pytest.approx(0.5 * 8**0.5)
    row = rig.row("updates", "weight")
    assert (row["changed"], row["with_gradient"], row["lost"]) == (8, 8, 0)


def test_optimizers_are_told_at_the_first_step_and_when_they_change() -> None:
    """One event at the start; one more when a group is added; foreign parameters come with their shape."""
    model = Net()
    rig = Rig(model)
    optimizer = torch.optim.AdamW(model.large.parameters(), lr=0.1)
    train(rig, model, optimizer, steps=3)
    stranger = nn.Parameter(torch.zeros(2, 3))
    stranger.grad = torch.ones(2, 3)
    optimizer.add_param_group({"params": [*model.small.parameters(), stranger], "lr": 0.5})
    rig.round(optimizer)
    events = [event for event in rig.events if isinstance(event, OptimizersSeen)]
    assert [event.step for event in events] == [1, 4]
    assert events[0].optimizers == ["AdamW"]
    assert len(events[0].group_tensors[0]) == 2
    assert len(events[1].group_tensors) == 2
    (foreign,) = events[1].foreign
    assert (foreign.group, foreign.shape, foreign.dtype, foreign.has_gradient) == (
        1,
        [2, 3],
        "float32",
        True,
    )


def test_parameters_that_the_model_has_replaced_are_told_as_foreign() -> None:
    """Once it is known whether they have gradients: at the step after the one at which they are found to be others."""
    model = Net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(rig, model, optimizer, steps=2)
    model.small = nn.Linear(40, 4)
    optimizer.zero_grad()
    train(rig, model, optimizer, steps=3)
    *_, last = [event for event in rig.events if isinstance(event, OptimizersSeen)]
    assert [(one.shape, one.has_gradient) for one in last.foreign] == [
        ([4, 40], False),
        ([4], False),
    ]


def test_parameters_that_others_replace_in_turn_are_asked_themselves() -> None:
    """As many foreign ones as before, but others: what is told of them is not what was found of those before."""
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)})
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def steps(count: int) -> None:
        for _ in range(count):
            (
                model["first"](torch.ones(2, 4)).sum() + model["second"](torch.ones(2, 4)).sum()
            ).backward()
            rig.round(optimizer)

    steps(2)
    first, model["first"] = model["first"], nn.Linear(4, 4)
    optimizer.zero_grad()
    steps(2)
    model["first"], model["second"] = first, nn.Linear(4, 4)  # the gradients of what was there stay
    steps(3)
    told = [event.foreign for event in rig.events if isinstance(event, OptimizersSeen)]
    assert [one.has_gradient for one in told[-1]] == [True, True]
    assert [False, False] in [[one.has_gradient for one in each] for each in told]


def test_learning_rates_are_told_when_they_change() -> None:
    """The rate that a step used is told at the first step, and at each step that it differs."""
    model = nn.Linear(2, 2)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rate in (0.1, 0.1, torch.tensor(0.05), torch.tensor(0.05), 0.2):
        optimizer.param_groups[0]["lr"] = rate
        rig.round(optimizer)
    told = [(int(part["step"][0]), float(part["lr"][0])) for part in rig.table("groups")]
    assert told == [(1, 0.1), (3, pytest.approx(0.05)), (5, 0.2)]


def test_weight_decay_is_told_beside_the_rate() -> None:
    """By group, when one of the two changes; what is no number is NaN."""
    model = nn.Linear(2, 2)
    rig = Rig(model)
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    rig.round(optimizer)
    rig.round(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.25
    rig.round(optimizer)
    told = [(part["step"].tolist(), part["weight_decay"].tolist()) for part in rig.table("groups")]
    assert told == [([1, 1], [0.5, 0.0]), ([3], [0.25])]


def test_an_optimizer_without_learning_rate_is_no_failure() -> None:
    """Groups that lack `lr`, and parameters that lack a counter, have no rows."""

    class Plain(Optimizer):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(1)

    model = nn.Linear(2, 2)
    rig = Rig(model)
    rig.round(Plain(model.parameters(), {}))
    assert rig.table("groups") == []
    assert rig.table("counters") == []
    assert rig.row("updates", "weight")["changed"] == 4


def test_step_counters_are_the_optimizers_own() -> None:
    """Adam's counter goes with the steps, and shows when its state was lost."""
    model = nn.Linear(2, 2)
    rig = Rig(model)
    optimizer = torch.optim.Adam(model.parameters())
    train(rig, model, optimizer, steps=3, width=2)
    optimizer.state.clear()
    train(rig, model, optimizer, steps=5, width=2)
    counters = {step: row["optimizer_step"] for step, row in rig.rows("counters", "weight").items()}
    assert counters == {1: 1, 2: 2, 3: 3, 4: 1, 8: 5}


def test_slot_changes_come_with_the_tensors_new_row() -> None:
    """A cast is one event per slot, and the tensor table says the new dtype."""
    model = Net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(rig, model, optimizer)
    model.expert_bias = model.expert_bias.bfloat16()
    train(rig, model, optimizer)
    (event,) = [event for event in rig.events if isinstance(event, SlotChanged)]
    assert (event.step, event.changes) == (2, ["object", "storage", "dtype"])
    assert event.after == "bfloat16[4] on cpu"
    assert [(info.fqn, info.dtype) for info in rig.infos] == [("expert_bias", "bfloat16")]


def test_a_broken_tie_is_told_from_both_ends() -> None:
    """When the first of two tied names gets a new tensor, the row of the second is sent anew."""
    model = nn.ModuleDict({"embed": nn.Linear(3, 3), "head": nn.Linear(3, 3)})
    model["head"].weight = model["embed"].weight
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rig.round(optimizer)
    assert rig.slots.info(rig.index("head.weight")).tied_to == rig.index("embed.weight")
    model["embed"].weight = nn.Parameter(torch.ones(3, 3))
    rig.round(optimizer)
    assert {info.fqn: info.tied_to for info in rig.infos} == {"embed.weight": -1, "head.weight": -1}


def test_a_buffer_replaced_at_every_step_does_not_flood() -> None:
    """It is reported at first, then now and then, as long as it goes on."""
    model = Net()
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(100):
        model.expert_bias = model.expert_bias + 0.001
        rig.round(optimizer, choice=Choice(identity=range(5)))
    steps = [event.step for event in rig.events if isinstance(event, SlotChanged)]
    # The first replacement came before the first step, and is where judging starts.
    assert steps[:SHOWN_IN_A_ROW] == [2, 3, 4]
    assert len(steps) == SHOWN_IN_A_ROW + 96 // REPEAT_STEPS
    assert np.diff(steps[SHOWN_IN_A_ROW - 1 :]).tolist() == [REPEAT_STEPS] * (96 // REPEAT_STEPS)


@pytest.mark.parametrize("compiled", [False, True])
def test_probes_change_nothing(compiled: bool) -> None:
    """With and without probes: the same weights and random numbers to the bit, and the same version counters."""

    def run(attached: bool) -> tuple[list[torch.Tensor], list[int], torch.Tensor]:
        torch.manual_seed(1)
        bare = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        model = torch.compile(bare, backend="eager") if compiled else bare
        optimizer = torch.optim.AdamW(bare.parameters(), lr=0.01)
        rig = Rig(bare)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).sum().backward()
            rig.round(optimizer) if attached else optimizer.step()
        state = [*bare.parameters(), *bare.buffers()]
        return state, [tensor._version for tensor in state], torch.get_rng_state()

    bare, attached = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(bare[0], attached[0], strict=True))
    assert bare[1] == attached[1]
    assert torch.equal(bare[2], attached[2])


def test_frozen_base_weights_are_held_by_nobody() -> None:
    """LoRA: the base has no gradients and does not move; A and B do, and their range is told."""
    base, lora_a, lora_b = nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
    base.requires_grad_(False)
    model = nn.ModuleDict({"base": base, "lora_A": lora_a, "lora_B": lora_b})
    rig = Rig(model)
    x = torch.ones(1, 4)
    (base(x) + lora_b(lora_a(x))).sum().backward()
    rig.round(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    assert not rig.rows("gradients", "base.weight")
    assert rig.row("updates", "base.weight")["changed"] == 0
    assert rig.row("updates", "lora_A.weight")["changed"] == 8
    assert rig.row("extremes", "lora_A.weight")["high"] == lora_a.weight.detach().max().item()


def test_a_loop_without_optimizer_has_updates_too() -> None:
    """agent.step() rounds: what moved is compared, gradients are read, nobody holds anything."""
    model = nn.Linear(2, 2)
    rig = Rig(model)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1)
        rig.round()
    assert rig.row("updates", "weight")["changed"] == 4
    assert rig.row("gradients", "weight")["grad_norm"] > 0
    assert not [one for one in rig.events if isinstance(one, (OptimizersSeen, SlotChanged))]


def test_log_reads_numbers_and_refuses_the_rest() -> None:
    """Floats, numpy numbers and tensors of one element are kept as they were when logged; others raise."""
    log, record = Log(), Record(1 << 20)
    loss = torch.tensor(2.5, requires_grad=True)
    numbers = {"loss": loss, "lr": np.float32(0.5), "tokens": 3, "one": torch.ones(1)}
    for name, value in numbers.items():
        log.log(record, 7, name, value)
    with torch.no_grad():
        loss += 1
    tables, _, _ = record.take()
    assert record.scalar_names == ["loss", "lr", "tokens", "one"]
    assert tables["scalars"]["value"].tolist() == [2.5, 0.5, 3.0, 1.0]
    assert tables["scalars"]["step"].tolist() == [7] * 4
    with pytest.raises(TypeError, match=r"log\(loss=...\).*Tensor of shape \[2\]"):
        log.log(record, 8, "loss", torch.ones(2))
    log.flush(record)


def test_the_beginning_is_told_once() -> None:
    """Zeros, denormal numbers and sizes of every parameter before the first step; nothing of it later."""
    model = Net()
    with torch.no_grad():
        model.small.weight[0] = 0.0
        model.small.weight[1] = 1e-40
    squares = float(model.small.weight.detach().double().square().sum())
    width = model.small.weight.shape[1]
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rig.round(optimizer)
    rig.round(optimizer)
    told = rig.rows("beginning", "small.weight")
    assert list(told) == [0]
    assert told[0]["read"] == model.small.weight.numel()
    assert (told[0]["zeros"], told[0]["denormals"]) == (width, width)
    assert told[0]["squares"] == pytest.approx(squares)
    assert rig.rows("beginning", "large.weight")[0]["read"] == 4096


def test_rows_that_stay_alike_are_told() -> None:
    """Those that part at the first update are not; the others are told at the eighth, and as steps double."""
    model = nn.ModuleDict({"same": nn.Linear(4, 6), "parting": nn.Linear(4, 6)})
    for layer in model.values():
        nn.init.constant_(layer.get_parameter("weight"), 0.5)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(17):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.ones_like(parameter)
            if name == "parting.weight" and step == 0:
                parameter.grad[2] = 0.0
        rig.round(optimizer)
    told = rig.rows("rows", "same.weight")
    assert {step: row["rows_alike"] for step, row in told.items()} == {8: 6, 16: 6}
    assert rig.rows("rows", "parting.weight") == {}


def test_a_parameter_replaced_in_the_optimizer_too_stays_held() -> None:
    """Model and parameter groups are given the new one between two steps: nobody is told otherwise."""
    model = nn.Linear(2, 2)
    rig = Rig(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(rig, model, optimizer, width=2)
    old, model.weight = model.weight, nn.Parameter(torch.ones(2, 2))
    group = optimizer.param_groups[0]
    group["params"] = [model.weight if one is old else one for one in group["params"]]
    rig.events.clear()
    train(rig, model, optimizer, width=2)
    assert [type(event) for event in rig.events] == [SlotChanged]


@pytest.mark.parametrize("name", ["master_param", "kahan_comp", "exp_avg"])
def test_an_optimizer_that_keeps_what_rounding_takes(name: str) -> None:
    """It is told by the name of a state of the parameter's shape, as soon as there is one."""
    model = nn.Linear(4, 4).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rig = Rig(model)
    for _ in range(2):
        model(torch.randn(2, 4).bfloat16()).sum().backward()
        rig.round(optimizer)
        optimizer.state[model.weight][name] = torch.zeros(4, 4)
    told = [event.carries for event in rig.events if isinstance(event, OptimizersSeen)]
    assert told == ([False] if name == "exp_avg" else [False, True])
