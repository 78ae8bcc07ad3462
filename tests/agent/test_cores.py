"""
Cores: the same positions on any sharding, cuts of any tensor, bitwise comparison, and digests that add up.
"""

from __future__ import annotations

import itertools
import math
import warnings
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.cores import (
    CORE_ELEMENTS,
    CorePlan,
    compare,
    cut,
    cut_many,
    digest_many,
    nonzero,
    plan_cores,
)
from trainvitals.dtypes import READINGS
from trainvitals.layout import Layout, flat_layout, layout_of
from trainvitals.sweep import norms

DTYPES = sorted(READINGS, key=str)
WORD = (1 << 64) - 1


def random_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Small values of any dtype, some of them equal."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    if READINGS[dtype].is_float:
        values = torch.randn(shape).clamp(-4, 4)
        if dtype.is_complex:
            values = torch.complex(values, torch.randn(shape))
        return values.abs().to(dtype) if "e8m0" in str(dtype) else values.to(dtype)
    return torch.randint(0, 100, shape).to(dtype)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="ComplexHalf support is experimental")


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Layout]]:
    """A shape, and boxes that tile it: cut at any places, in every dim, some of them empty."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=4)))
    if len(shape) < 3 and draw(st.booleans()):
        shape = (*shape[:-1], shape[-1] * 300)
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    for size in shape:
        places = draw(st.lists(st.integers(0, size), max_size=2).map(sorted))
        edges = [0, *places, size]
        spans = [(low, high - low) for low, high in itertools.pairwise(edges)]
        parts = [((*o, low), (*s, span)) for o, s in parts for low, span in spans]
    return shape, [Layout("box", shape, offsets, sizes) for offsets, sizes in parts]


def part_of(full: torch.Tensor, layout: Layout) -> torch.Tensor:
    """What a rank with this layout holds of the tensor."""
    if layout.kind == "flat":
        return full.flatten()[layout.offsets[0] : layout.offsets[0] + layout.sizes[0]]
    if layout.kind != "box":
        return full
    index = tuple(
        slice(offset, offset + size)
        for offset, size in zip(layout.offsets, layout.sizes, strict=True)
    )
    return full[index]


def whole_plan(full: torch.Tensor, fqn: str = "w") -> CorePlan:
    """The plan of a process that holds all of it."""
    return plan_cores(fqn, layout_of(full))


@settings(max_examples=60, deadline=None)
@given(boxes())
def test_parts_add_up(case: tuple[tuple[int, ...], list[Layout]]) -> None:
    """However a tensor is cut into boxes: digests sum to the unsharded one to the bit, counts and squares too."""
    shape, layouts = case
    full = torch.randn(shape)
    plan = whole_plan(full)
    check_parts(full, plan, [plan_cores("w", layout) for layout in layouts])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60000), st.lists(st.floats(0, 1), max_size=4))
def test_flat_ranges_add_up(numel: int, fractions: list[float]) -> None:
    """So do ranges of the row-major order, cut anywhere, also within a core."""
    full = torch.randn(numel)
    edges = [0, *sorted(int(fraction * numel) for fraction in fractions), numel]
    layouts = [flat_layout((numel,), low, high - low) for low, high in itertools.pairwise(edges)]
    check_parts(full, whole_plan(full), [plan_cores("w", layout) for layout in layouts])


def check_parts(full: torch.Tensor, plan: CorePlan, plans: list[CorePlan]) -> None:
    """Cuts of the parts are the elements that the whole plan names, and their facts sum to its facts."""
    cuts = cut_many([part_of(full, part.layout) for part in plans], plans)
    for part, values in zip(plans, cuts, strict=True):
        assert len(values) == part.count
        assert torch.equal(values, full.flatten()[part.global_indices().astype(np.int64)])
        assert part.square_scale == plan.square_scale
    everywhere = np.sort(np.concatenate([part.global_indices() for part in plans]))
    np.testing.assert_array_equal(everywhere, plan.global_indices())
    (whole,) = cut_many([full], [plan])
    expected, found = digest_many([whole], [plan]), digest_many(cuts, plans)
    assert found["digest"].sum() == expected["digest"][0]
    assert found["count"].sum() == expected["count"][0] == plan.total
    for column in ("square_sum", "sketch_0", "sketch_7"):
        np.testing.assert_allclose(found[column].sum(), expected[column][0], rtol=1e-9, atol=1e-9)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.text(max_size=5))
def test_no_element_is_cut_twice(shape: list[int], fqn: str) -> None:
    """Positions ascend, lie in the tensor, and are up to 4,096: all of a small tensor, nearly 4,096 of a large one."""
    layout = Layout("full", tuple(shape), (0,) * len(shape), tuple(shape))
    plan = plan_cores(fqn, layout)
    positions = plan.global_indices().astype(np.int64)
    assert len(positions) == plan.count == plan.total
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < plan.numel
    assert plan.total <= CORE_ELEMENTS
    assert plan.total > 0.9 * min(plan.numel, CORE_ELEMENTS)
    assert plan.is_whole == (plan.numel <= CORE_ELEMENTS)


def mixed(word: int) -> int:
    """splitmix64's finalizer on Python's integers, as the format says it."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


@pytest.mark.parametrize("shape", [(70000,), (300, 500), (3, 70, 90), (100, 40, 41), (2048, 3, 3)])
def test_the_format_of_positions(shape: tuple[int, ...]) -> None:
    """Positions are those that the documented rule gives, written down a second time with plain integers."""
    seed = int.from_bytes(
        blake2b(f"a.b|{','.join(map(str, shape))}".encode(), digest_size=8).digest(), "little"
    )
    rows = shape[0] if len(shape) >= 3 and shape[0] <= 1024 else 1
    per_row = math.ceil(64 / rows)
    run = min(64, 4096 // (rows * per_row))
    row_numel = math.prod(shape) // rows
    expected: list[int] = []
    for core in range(rows * per_row):
        row, stratum = divmod(core, per_row)
        low, high = stratum * row_numel // per_row, (stratum + 1) * row_numel // per_row
        drawn = mixed((seed + core * 0x9E3779B97F4A7C15) & WORD) % (high - low - run + 1)
        expected += range(row * row_numel + low + drawn, row * row_numel + low + drawn + run)
    assert whole_plan(torch.empty(shape), "a.b").global_indices().tolist() == expected


def test_the_format_of_digests() -> None:
    """A digest is what the documented rule gives; its very value is pinned, since old ones are compared with new."""
    values = torch.tensor([1.5, -2.0, 0.0, float("nan")])
    plan = whole_plan(values)
    bits = values.view(torch.int32).numpy().view(np.uint32).tolist()
    expected = sum(mixed(mixed(i) ^ word) for i, word in enumerate(bits)) & WORD
    found = digest_many([values], [plan])
    assert int(found["digest"][0]) == expected == 1447046323361519040
    finite = digest_many([values[:3]], [whole_plan(values[:3])])
    signs = [1 - 2 * (mixed(i) >> 5 & 1) for i in range(3)]
    assert finite["sketch_5"][0] == signs[0] * 1.5 - signs[1] * 2.0
    assert finite["square_sum"][0] == 6.25


@pytest.mark.parametrize("experts", [3, 8, 48, 64, 65, 128, 256, 1000])
def test_every_expert_is_cut(experts: int) -> None:
    """Stacked experts [E, ...]: as many elements from each, none missed."""
    plan = whole_plan(torch.empty(experts, 30, 50))
    per_expert = np.bincount(
        (plan.global_indices() // np.uint64(1500)).astype(np.int64), minlength=experts
    )
    assert per_expert.min() == per_expert.max() == plan.total // experts > 0


def test_positions_depend_on_name_and_shape() -> None:
    """Another name or shape, other positions; the same ones, the same positions."""
    layout = layout_of(torch.empty(100, 100))
    first = plan_cores("a", layout).global_indices()
    assert np.array_equal(first, plan_cores("a", layout).global_indices())
    assert not np.array_equal(first, plan_cores("b", layout).global_indices())
    other = plan_cores("a", layout_of(torch.empty(50, 200))).global_indices()
    assert not np.array_equal(first, other)


def strided() -> dict[str, torch.Tensor]:
    """Large and small tensors that are not contiguous."""
    return {
        "transposed": torch.randn(90, 110).t(),
        "channels last": torch.randn(8, 40, 9, 9).to(memory_format=torch.channels_last),
        "sliced": torch.randn(200, 300)[10:150:2, 5:250],
        "expanded": torch.randn(1, 5000).expand(3, 5000),
        "small, transposed": torch.randn(20, 30).t(),
        "small, a column": torch.randn(100, 200)[:, 3],
    }


@pytest.mark.parametrize("name", strided())
def test_strides_do_not_matter(name: str) -> None:
    """What is cut of a tensor that is not contiguous is what is cut of its contiguous copy, twice in a row too."""
    tensor = strided()[name]
    plan = whole_plan(tensor)
    expected = cut(tensor.contiguous(), plan)
    for _ in range(2):
        assert torch.equal(cut(tensor, plan), expected)
        assert torch.equal(cut_many([tensor, tensor], [plan, plan])[1], expected)


def test_sharded_and_strided() -> None:
    """A column shard that is a view of a wider tensor, as tensor parallelism makes it."""
    full = torch.randn(120, 100)
    plan = plan_cores("w", Layout("box", (120, 100), (0, 30), (120, 45)))
    part = full[:, 30:75]
    assert not part.is_contiguous()
    assert torch.equal(cut(part, plan), full.flatten()[plan.global_indices().astype(np.int64)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(60,), (80, 70)], ids=["small", "large"])
def test_one_element_of_any_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """In every dtype: a cut is bit-exact, one changed element is one, and the digest tells."""
    full = random_of(dtype, *shape)
    plan = whole_plan(full)
    before = cut(full, plan)
    assert before.dtype == dtype
    assert len(before) == plan.count
    flat = full.flatten().view(torch.uint8).reshape(full.numel(), -1)
    position = int(plan.global_indices()[plan.count // 2])
    changed = flat.clone()
    changed[position, 0] ^= 1
    after = cut(changed.flatten().view(dtype).view(shape), plan)
    found = compare([before, before], [before.clone(), after])
    assert found.changed.tolist() == [0, 1]
    assert found.looked.tolist() == [plan.count] * 2
    assert found.square_sum[0] == 0
    digests = digest_many([before, before.clone(), after], [plan] * 3)
    assert digests["digest"][0] == digests["digest"][1] != digests["digest"][2]
    assert digests["count"].tolist() == [plan.count] * 3
    nonzeros = np.unpackbits(nonzero([before])[0], count=plan.count)
    zeros = [value == 0 for value in before.to(torch.complex128).tolist()]
    assert (nonzeros == 0).tolist() == zeros
    assert norms([before])[0] ** 2 == pytest.approx(digests["square_sum"][0])


def odd() -> dict[str, torch.Tensor]:
    """Tensors in which nothing can be read, or that are not what was planned for."""
    freed = torch.zeros(8, 8)
    freed.untyped_storage().resize_(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.zeros(8, 8), 0.1, 0, torch.qint8)
    return {
        "sparse": torch.eye(8).to_sparse(),
        "meta": torch.empty(8, 8, device="meta"),
        "another size": torch.zeros(7, 8),
        "empty": torch.zeros(0),
        "freed": freed,
        "quantized": quantized,
    }


@pytest.mark.parametrize("name", odd())
def test_odd_tensors_are_no_data(name: str) -> None:
    """No exception and no number; the other tensors of the same call are not affected."""
    tensor = odd()[name]
    sound = torch.randn(8, 8)
    plan = whole_plan(sound)
    assert cut(tensor, plan).numel() == 0
    cuts = cut_many([tensor, sound], [plan, plan])
    assert [part.numel() for part in cuts] == [0, 64]
    assert digest_many(cuts, [plan, plan])["count"].tolist() == [0, 64]
    assert compare(cuts, [sound.flatten(), sound.flatten()]).looked.tolist() == [0, 64]
    assert norms(cuts)[0] == 0


def test_what_means_nothing_by_itself() -> None:
    """A Partial's part has count 0, an empty tensor too, a scalar one element."""
    partial = plan_cores("w", Layout("unknown", (9, 9), (0, 0), (0, 0)))
    assert partial.count == 0
    assert cut(torch.zeros(9, 9), partial).numel() == 0
    assert len(partial.global_indices()) == 0
    assert whole_plan(torch.zeros(0, 5)).count == 0
    assert whole_plan(torch.tensor(3.0)).count == 1
    assert cut(torch.tensor(3.0), whole_plan(torch.tensor(3.0))).tolist() == [3.0]


def test_differences_against_numpy() -> None:
    """Square sums and counts of many tensors of several dtypes at once are those of each alone in float64."""
    before = [random_of(dtype, size) for dtype in DTYPES for size in (1, 7, 500)]
    after = [random_of(tensor.dtype, tensor.numel()) for tensor in before]
    found = compare(before, after)
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        wide = torch.complex128 if old.is_complex() else torch.float64
        difference = (new.to(wide) - old.to(wide)).abs().double()
        assert found.square_sum[row] == pytest.approx(float((difference**2).sum()), rel=1e-5)
        assert found.changed[row] == int((old.to(wide) != new.to(wide)).sum())


def test_bits_not_values() -> None:
    """NaN that stays NaN has not changed, nor has inf; zero that changes its sign has. They spoil no sum."""
    nan, inf = float("nan"), float("inf")
    before = torch.tensor([nan, inf, 0.0, 1.0, 2.0])
    after = torch.tensor([nan, inf, -0.0, 1.0, 5.0])
    found = compare([before], [after])
    assert found.changed.tolist() == [2]
    assert found.square_sum.tolist() == [9.0]
    assert math.isnan(compare([before], [after.flip(0)]).square_sum[0])


def test_tiny_updates_are_measured() -> None:
    """Differences whose squares vanish in float32 do not vanish, nor do huge ones overflow."""
    before = torch.zeros(10)
    assert compare([before], [before + 1e-30]).square_sum[0] == pytest.approx(
        1e-59, rel=1e-6, abs=0
    )
    assert compare([before], [before + 1e30]).square_sum[0] == pytest.approx(1e61)


def test_neighbours_make_no_difference() -> None:
    """A tensor's square sum is the same to the bit beside one that has a NaN or a tiny update, and alone."""
    before = [torch.randn(5000) for _ in range(3)]
    after = [tensor + 0.01 for tensor in before]
    alone = compare(before[:1], after[:1]).square_sum[0]
    after[1][7] = float("nan")
    after[2] = before[2] + 0.0
    before[2][3], after[2][3] = 0.0, 1e-30
    found = compare(before, after).square_sum
    assert found[0] == alone
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(1e-60, rel=1e-6, abs=0)


def test_lost_updates() -> None:
    """`lost`: had a gradient and did not change. A tensor without a gradient loses nothing."""
    before = torch.tensor([1.0, 2.0, 3.0, 4.0])
    after = torch.tensor([1.0, 2.5, 3.0, 4.5])
    masks = nonzero([torch.tensor([0.5, 0.5, -0.0, float("nan")]), torch.empty(0)])
    found = compare([before] * 3, [after] * 3, [masks[0], None, masks[1]])
    assert found.with_gradient.tolist() == [3, 0, 0]
    assert found.lost.tolist() == [1, 0, 0]


def test_a_cast_in_between_is_no_comparison() -> None:
    """Two cuts of different dtypes are not compared."""
    found = compare([torch.zeros(5)], [torch.zeros(5, dtype=torch.bfloat16)])
    assert (found.looked[0], found.changed[0]) == (0, 0)


def test_digest_of_a_cast() -> None:
    """The digest of cores cast to a saved dtype is the digest of the saved tensor."""
    full = torch.randn(300, 300)
    plan = whole_plan(full)
    saved = digest_many([cut(full.bfloat16(), plan)], [plan])
    live = digest_many([cut(full, plan).to(torch.bfloat16)], [plan])
    assert saved["digest"] == live["digest"]


def test_digests_know_where() -> None:
    """Two elements that change places, or a tensor filled with another one's numbers, are another digest."""
    full = torch.randn(4000)
    plan = whole_plan(full)
    swapped = full.clone()
    swapped[[5, 6]] = full[[6, 5]]
    found = digest_many([full, swapped], [plan, plan])
    assert found["digest"][0] != found["digest"][1]


def test_sketches_tell_distances() -> None:
    """The mean square of sketch differences estimates the squared distance of the cores."""
    ratios = []
    for fqn in map(str, range(50)):
        full = torch.randn(200, 300)
        plan = whole_plan(full, fqn)
        cuts = [cut(full, plan), cut(full + 0.1 * torch.randn(200, 300), plan)]
        found = digest_many(cuts, [plan, plan])
        difference = np.array([np.diff(found[f"sketch_{k}"])[0] for k in range(8)])
        ratios.append((difference**2).mean() / compare(cuts[:1], cuts[1:]).square_sum[0])
    assert np.mean(ratios) == pytest.approx(1, abs=0.25)
    assert np.std(ratios) == pytest.approx(0.5, abs=0.2)


def test_norms_scaled_up() -> None:
    """sqrt(square sum x square_scale) of the cores is near the tensor's norm."""
    full = torch.randn(1000, 1000)
    plan = whole_plan(full)
    norm = norms([cut(full, plan)])[0] * math.sqrt(plan.square_scale)
    assert norm == pytest.approx(1000, rel=0.05)


def test_a_plan_is_small() -> None:
    """An unsharded plan keeps 64 starts, a sharded one 4 bytes an element besides."""
    full = whole_plan(torch.empty(3000, 1000))
    assert full.index is not None
    assert full.index.nbytes <= 512
    shard = plan_cores("w", Layout("box", (3000, 1000), (0, 0), (3000, 500)))
    assert shard.index is not None
    assert 1800 < shard.count < 2300
    assert shard.index.nbytes == 4 * shard.count


def test_many_small_tensors_share_no_large_buffer() -> None:
    """A kept cut keeps no more than 64 KB of its neighbours alive."""
    tensors = [torch.randn(1000) for _ in range(100)]
    cuts = cut_many(tensors, [whole_plan(tensor) for tensor in tensors])
    assert max(part.untyped_storage().nbytes() for part in cuts) <= 1 << 16


def test_cuts_are_copies() -> None:
    """What training writes later does not show in a cut: small, large, alone or together."""
    tensors = [
        torch.zeros(10),
        torch.zeros(20),
        torch.zeros(100, 100),
        torch.zeros(5, dtype=torch.int64),
    ]
    plans = [whole_plan(tensor) for tensor in tensors]
    cuts = cut_many(tensors, plans) + [cut(*pair) for pair in zip(tensors, plans, strict=True)]
    for tensor in tensors:
        tensor.add_(1)
    assert all(int(part.count_nonzero()) == 0 for part in cuts)


def test_nothing_of_the_trainer_is_touched() -> None:
    """Version counters, gradient state and the RNG are as before; cuts have no graph."""
    weight = torch.nn.Parameter(torch.randn(100, 100))
    bias = torch.nn.Parameter(torch.randn(100))
    versions, rng = (weight._version, bias._version), torch.get_rng_state()
    plans = [whole_plan(weight), whole_plan(bias)]
    cuts = [*cut_many([weight, bias], plans), cut(weight, plans[0]), cut(bias, plans[1])]
    compare(cuts, cuts, nonzero(cuts))
    digest_many(cuts[:2], plans)
    assert (weight._version, bias._version) == versions
    assert torch.equal(torch.get_rng_state(), rng)
    assert weight.requires_grad
    assert not any(part.requires_grad for part in cuts)
    assert torch.is_grad_enabled()


def test_in_any_mode_of_the_trainer() -> None:
    """A default device, inference tensors and inference mode make no difference."""
    with torch.inference_mode():
        frozen = torch.randn(100, 100)
    expected = cut(frozen.clone(), whole_plan(frozen.clone()))
    with torch.device("meta"):
        plan = plan_cores("w", layout_of(frozen))
        cuts = cut_many([frozen, torch.zeros(3, device="cpu")], [plan, plan])
        assert torch.equal(cuts[0], expected)
        assert compare(cuts, cuts).looked.tolist() == [plan.count, 0]
        assert digest_many(cuts, [plan, plan])["count"].tolist() == [plan.count, 0]
    with torch.inference_mode():
        assert torch.equal(cut(frozen, plan), expected)
