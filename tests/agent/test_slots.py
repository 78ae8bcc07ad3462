"""Slots: what is found, what counts as a change, and what does not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainvitals.slots import SlotTable


class Routed(nn.Module):
    """A layer with a persistent and a non-persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.expert_bias: torch.Tensor
        self.register_buffer("expert_bias", torch.zeros(3))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.gate(x)
        return logits + self.expert_bias


class Tied(nn.Module):
    """Two names for one parameter, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(4)
        self.again = self.norm


def changes(table: SlotTable, walk: bool = False) -> dict[str, list[str]]:
    """Changes by name, as one look finds them."""
    events = table.walk(7) if walk else table.check(None, 7)
    assert all(event.step == 7 for event in events)
    return {table.fqn(event.tensor): event.changes for event in events}


@pytest.fixture
def one_process_group() -> Iterator[None]:
    """A gloo group of one."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_parameters_and_buffers_are_found_in_registration_order() -> None:
    """Every parameter and buffer has a slot, with what the wire wants to know of it."""
    table = SlotTable([nn.Sequential(Routed(), nn.BatchNorm1d(3))])
    infos = [table.info(index) for index in range(len(table))]
    assert [info.fqn for info in infos] == [
        "0.expert_bias", "0.cache", "0.gate.weight", "0.gate.bias",
        "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    ]  # fmt: skip
    assert [info.persistent for info in infos] == [True, False, *[True] * 7]
    assert infos[2].module == "Linear"
    assert infos[2].trainable
    assert infos[8].dtype == "int64"
    assert infos[2].shape == [3, 4]


def test_tied_tensors_have_slots_of_their_own() -> None:
    """A tied parameter, and a module that hangs in two places, are told from both names."""
    model = Tied()
    table = SlotTable([model])
    tied = {table.fqn(i): table.tied_to(i) for i in range(len(table))}
    assert tied == {
        "embed.weight": -1, "head.weight": 0,
        "norm.weight": -1, "norm.bias": -1, "again.weight": 2, "again.bias": 3,
    }  # fmt: skip
    assert table.index_of(model.head.weight) == 0
    assert table.indices_of(model.head.weight) == [0, 1]
    assert table.index_of(torch.nn.Parameter(torch.zeros(1))) is None


def test_a_tie_that_an_assigning_load_breaks_is_seen() -> None:
    """After load_state_dict(assign=True) with two tensors nothing is tied any more."""
    model = Tied()
    table = SlotTable([model])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    found = changes(table)
    assert "object" in found["embed.weight"]
    assert "object" in found["head.weight"]
    assert table.tied_to(1) == -1


def test_names_are_canonical_under_wrappers() -> None:
    """torch.compile's wrapper shows in the raw name alone."""
    compiled: nn.Module = torch.compile(Routed(), backend="eager")  # type: ignore[assignment]
    table = SlotTable([compiled])
    assert table.fqn(0) == "expert_bias"
    assert table.raw_fqn(0) == "_orig_mod.expert_bias"


def test_models_get_prefixes_only_when_names_collide() -> None:
    """Two models' tensors are told apart by class, or by number, and only when they must be."""
    assert SlotTable([Routed(), nn.BatchNorm1d(2)]).fqn(0) == "expert_bias"
    assert SlotTable([Routed(), Tied(), Routed()]).fqn(0) == "model0.expert_bias"
    table = SlotTable([nn.Linear(1, 1), nn.LayerNorm(1)])
    assert [table.fqn(i) for i in range(4)] == [
        "Linear.weight", "Linear.bias", "LayerNorm.weight", "LayerNorm.bias",
    ]  # fmt: skip
    assert table.raw_fqn(2) == "weight"


def test_a_model_inside_another_is_walked_once() -> None:
    """Given a wrapper and what it wraps, the wrapper alone counts."""
    inner = Routed()
    assert len(SlotTable([inner, nn.Sequential(inner)])) == 4


def reassign(model: nn.Module) -> None:
    model.layer.expert_bias = model.layer.expert_bias + 1  # type: ignore[union-attr, operator]


def shadow(model: nn.Module) -> None:
    object.__setattr__(model.layer, "expert_bias", torch.ones(3))


def swap_data(model: nn.Module) -> None:
    model.layer.gate.bias.data = torch.ones(3)  # type: ignore[union-attr]


def freeze(model: nn.Module) -> None:
    model.layer.gate.bias.requires_grad_(False)  # type: ignore[union-attr]


def cast(model: nn.Module) -> None:
    model.bfloat16()


def drop(model: nn.Module) -> None:
    model.layer.gate.bias = None  # type: ignore[union-attr]


def reshape(model: nn.Module) -> None:
    model.layer.gate.bias.data = torch.ones(5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (reassign, {"layer.expert_bias": ["object", "storage"]}),
        (shadow, {"layer.expert_bias": ["object", "storage"]}),
        (swap_data, {"layer.gate.bias": ["storage"]}),
        (freeze, {"layer.gate.bias": ["trainable"]}),
        (drop, {"layer.gate.bias": ["lost"]}),
        (reshape, {"layer.gate.bias": ["storage", "shape"]}),
        (
            cast,
            {
                "layer.expert_bias": ["object", "storage", "dtype"],
                "layer.cache": ["object", "storage", "dtype"],
                "layer.gate.weight": ["storage", "dtype"],
                "layer.gate.bias": ["storage", "dtype"],
            },
        ),
    ],
)
def test_what_changed_is_named_once(
    change: Callable[[nn.Module], None], expected: dict[str, list[str]]
) -> None:
    """A change is reported at the next look with what differs, and is the new baseline then."""
    model = nn.ModuleDict({"layer": Routed()})
    table = SlotTable([model])
    keep_storage_taken = [tensor.clone() for tensor in model.state_dict().values()]
    change(model)
    assert changes(table) == expected
    assert changes(table) == {}
    assert keep_storage_taken


def test_every_one_of_fifty_replacements_is_seen() -> None:
    """Ids and pointers that the allocator uses again do not hide a new object."""
    model = Routed()
    table = SlotTable([model])
    for _ in range(50):
        model.expert_bias = model.expert_bias + 1
        assert "object" in changes(table)["expert_bias"]


def test_replaced_tensors_are_not_kept_alive() -> None:
    """The table holds no reference to what a slot held before."""
    model = Routed()
    table = SlotTable([model])
    old = weakref.ref(model.cache)
    model.cache = torch.ones(2)
    assert old() is None
    assert "object" in changes(table)["cache"]


def test_a_replaced_module_is_seen_by_a_walk() -> None:
    """A new module under an old name is a change of its slots; new names get new indices, lost ones keep theirs."""
    model = nn.Sequential(Routed(), nn.Linear(3, 2))
    table = SlotTable([model])
    model[1] = nn.Linear(3, 2, bias=False)
    model.append(nn.LayerNorm(2))
    found = changes(table, walk=True)
    assert found["1.weight"][0] == "object"
    assert found["1.bias"] == ["lost"]
    assert found["2.weight"] == found["2.bias"] == ["added"]
    assert [table.fqn(i) for i in range(len(table))][-3:] == ["1.bias", "2.weight", "2.bias"]
    assert table.tensor(5) is None
    assert changes(table, walk=True) == {}


def test_wrapping_a_layer_keeps_its_index_and_tells_the_new_raw_name() -> None:
    """What torch.compile of one block renames stays the same slot."""
    model = nn.Sequential(Routed())
    table = SlotTable([model])
    model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    assert changes(table, walk=True) == {}
    assert table.renamed == [0, 1, 2, 3]
    assert table.raw_fqn(0) == "0._orig_mod.expert_bias"


def test_what_happens_before_the_first_step_is_the_baseline() -> None:
    """Casting, emptying and new parameters are no change when rebaselined."""
    model = nn.Sequential(Routed(), nn.LazyLinear(2))
    table = SlotTable([model])
    assert not table.readable(4)
    model(torch.zeros(1, 4))
    model.to_empty(device="cpu").bfloat16()
    model.append(nn.LayerNorm(2))
    table.rebaseline()
    assert changes(table, walk=True) == {}
    assert table.info(0).dtype == "bfloat16"
    assert table.info(4).shape == [2, 3]
    assert table.readable(4)
    assert len(table) == 8


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam])
@pytest.mark.parametrize("wrap", ["plain", "compile"])
def test_healthy_training_changes_no_slot(
    optimizer: type[torch.optim.Optimizer], wrap: str
) -> None:
    """Steps, in-place loads, batch statistics and evaluation leave every slot as it was."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(Routed(), nn.BatchNorm1d(3), nn.Linear(3, 1))
    if wrap == "compile":
        model = torch.compile(model, backend="eager")  # type: ignore[assignment]
    optim = optimizer(model.parameters(), lr=0.1)  # type: ignore[call-arg]
    table = SlotTable([model])
    for _ in range(3):
        optim.zero_grad()
        model(torch.randn(8, 4)).sum().backward()
        optim.step()
        assert changes(table, walk=True) == {}
    model.eval()
    model(torch.randn(8, 4))
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    assert changes(table) == {}


@pytest.mark.filterwarnings("ignore")
def test_a_ddp_wrapper_changes_names_only(one_process_group: None) -> None:
    """Under DistributedDataParallel the canonical names stay; it is asked for its replicas at the first step."""
    wrapper = DistributedDataParallel(Routed())
    table = SlotTable([wrapper], world_size=2)
    table.rebaseline()
    assert table.fqn(0) == "expert_bias"
    assert table.raw_fqn(0) == "module.expert_bias"
    assert table.layout(0).kind == "replica"


@pytest.mark.filterwarnings("ignore")
def test_fsdp2_slots_are_judged_when_sharded(one_process_group: None) -> None:
    """What fully_shard puts there while gathered is no change, and no data; a real change of a DTensor is one."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    table = SlotTable([model], world_size=1)
    assert table.info(0).module == "Linear"
    sharded = table.tensor(0)
    assert sharded is not None
    local = sharded._local_tensor  # type: ignore[attr-defined]
    part = table.local(0)
    assert part is not None
    assert part.data_ptr() == local.data_ptr()
    with torch.no_grad():
        model(torch.zeros(1, 4))
    assert table.tensor(0) is not sharded
    assert changes(table) == {}
    assert table.local(0) is None
    model.reshard()  # type: ignore[operator]
    assert changes(table) == {}
    model[0].weight = nn.Parameter(sharded.detach() + 1)
    assert changes(table) == {"0.weight": ["object", "storage"]}


def test_odd_tensors_have_slots_but_no_data() -> None:
    """Sparse, meta and complex buffers are found and judged; only what can be read is."""
    model = nn.Module()
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("meta", torch.empty(3, device="meta"))
    model.register_buffer("complex", torch.zeros(3, dtype=torch.complex64))
    model.register_buffer("empty", torch.zeros(0))
    table = SlotTable([model])
    assert changes(table) == {}
    assert [table.readable(i) for i in range(4)] == [False, False, True, True]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_has_a_slot_but_no_data() -> None:
    """torch refuses to tell its shape; its replacement is seen all the same."""
    model = nn.Module()
    model.register_buffer("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    table = SlotTable([model])
    assert not table.readable(0)
    assert changes(table) == {}
    model.nested = torch.nested.nested_tensor([torch.ones(2)])
    assert changes(table) == {"nested": ["object"]}


def test_a_part_that_no_longer_fits_its_plan_is_no_data() -> None:
    """Between a change of shape and the look that sees it, nobody is given a wrong part."""
    model = nn.Linear(4, 3)
    table = SlotTable([model])
    assert table.plan(0).count == 12
    model.weight.data = torch.zeros(5, 4)
    assert table.local(0) is None
    assert changes(table) == {"weight": ["storage", "shape"]}
    assert table.plan(0).count == 20
    assert table.local(0) is not None


def test_what_an_optimizer_holds_follows_its_groups() -> None:
    """Holdings are made anew when groups are added or parameters replaced, and name what is foreign."""
    model = Tied()
    stranger = nn.Parameter(torch.zeros(2))
    table = SlotTable([model])
    optimizer = torch.optim.SGD([model.embed.weight], lr=0.1)
    assert table.holding(optimizer).groups == [[0, 1]]
    assert table.holding(optimizer) is table.holding(optimizer)
    optimizer.add_param_group({"params": [model.norm.bias, stranger]})
    holding = table.holding(optimizer)
    assert holding.groups == [[0, 1], [3, 5]]
    assert holding.foreign == [(1, 1)]
    assert table.held().tolist() == [True, True, False, True, False, True]
    model.norm.bias = nn.Parameter(torch.ones(4))
    table.check(None, 1)
    assert table.holding(optimizer).groups == [[0, 1], []]
    assert table.holding(optimizer).foreign == [(1, 0), (1, 1)]


def test_a_broken_tie_is_told_of_whichever_end_was_replaced() -> None:
    """Two names that are tied again, to a new tensor, are not told of."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    table = SlotTable([model])
    model[0].weight = model[1].weight = nn.Parameter(torch.zeros(4, 4))
    assert [event.untied for event in table.check()] == [[], []]
    model[0].weight = nn.Parameter(torch.zeros(4, 4))
    (event,) = table.check()
    assert (event.tensor, event.untied) == (0, [1])


def test_a_replaced_buffer_that_somebody_holds_is_known_from_one_that_is_freed() -> None:
    """A state dict's alias keeps the first one's memory; those that come after it are freed at once."""

    def outlived(model: Routed, table: SlotTable, step: int) -> int:
        model.expert_bias = model.expert_bias + 1
        (event,) = table.check(None, step)
        return event.outlived

    free, held = Routed(), Routed()
    free_table, held_table = SlotTable([free]), SlotTable([held])
    state = held.state_dict()
    assert [outlived(free, free_table, step) for step in (1, 2, 3, 4)] == [-1] * 4
    assert [outlived(held, held_table, step) for step in (1, 2, 3, 4)] == [-1, 1, 1, 1]
    state.clear()
    assert outlived(held, held_table, 5) == -1


def test_states_that_are_collected_say_nothing() -> None:
    """Whoever keeps every tensor that a buffer had does so on purpose; a view of the same memory is no other."""
    model = Routed()
    table = SlotTable([model])
    kept = []
    for step in range(1, 9):
        kept.append(model.expert_bias)
        model.expert_bias = model.expert_bias[:] if step == 5 else model.expert_bias + 1
        assert [event.outlived for event in table.check(None, step)] == [-1]
    assert len(kept) == 8
