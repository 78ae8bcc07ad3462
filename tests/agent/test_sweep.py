"""
Sweeps: norms against float64, on any dtype and size; non-finite elements counted exactly; ranges.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.dtypes import READINGS
from trainvitals.sweep import can_extremes, can_norm, extremes, nonfinite_counts, norms

DTYPES = sorted(READINGS, key=str)
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="ComplexHalf support is experimental")


def random_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Small values of any dtype."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    if not READINGS[dtype].is_float:
        return torch.randint(0, 100, shape).to(dtype)
    values = torch.randn(shape).clamp(-4, 4)
    if dtype.is_complex:
        values = torch.complex(values, torch.randn(shape))
    return values.abs().to(dtype) if "e8m0" in str(dtype) else values.to(dtype)


def truth(tensor: torch.Tensor) -> float:
    """The norm, all in float64."""
    wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    return float(np.linalg.norm(wide.flatten().numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_large_norms_are_right(dtype: torch.dtype) -> None:
    """5M elements to 3e-7, where one fp32 kernel is off by 2e-4 and a 16-bit one overflows or is rounded."""
    large = (torch.randn(5_000_000) + 3).to(dtype)
    assert norms([large])[0] == pytest.approx(truth(large), rel=3e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 18) + 5])
def test_norms_of_any_dtype(dtype: torch.dtype, size: int) -> None:
    """Every dtype of the table, small, large and empty."""
    tensor = random_of(dtype, size)
    assert can_norm(tensor)
    found = norms([tensor])
    assert found[0] == pytest.approx(truth(tensor), rel=3e-7)
    assert nonfinite_counts([tensor], found).tolist() == [0]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DTYPES), st.integers(0, 9000)), max_size=8))
def test_many_at_once(kinds: list[tuple[torch.dtype, int]]) -> None:
    """Norms and ranges of a mixed list are those of each tensor alone, in the list's order."""
    warnings.filterwarnings("ignore", message="ComplexHalf support is experimental")
    tensors = [random_of(dtype, size) for dtype, size in kinds]
    found, ranges = norms(tensors), extremes(tensors)
    for row, tensor in enumerate(tensors):
        assert found[row] == pytest.approx(norms([tensor])[0], rel=1e-12)
        np.testing.assert_array_equal([one[row] for one in ranges], np.ravel(extremes([tensor])))


@pytest.mark.parametrize("size", [100, 50_000, 600_000])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float16, 300.0),
        (torch.bfloat16, 1e30),
        (torch.float32, 1e30),
        (torch.float64, 1e300),
        (torch.float32, 1e-30),
        (torch.bfloat16, 1e-30),
        (torch.float64, 1e-250),
        (torch.complex64, 1e30),
        (torch.float32, 1e-20),
    ],
    ids=str,
)
def test_squares_that_do_not_fit(dtype: torch.dtype, value: float, size: int) -> None:
    """A norm whose squares overflow or vanish is still right, and no element is taken for NaN."""
    tensor = torch.full((size,), value, dtype=dtype)
    found = norms([tensor, torch.ones(3)])
    exact = float(tensor[0].abs().double()) * math.sqrt(size)
    assert found.tolist() == pytest.approx([exact, math.sqrt(3)], rel=5e-7, abs=0)
    assert nonfinite_counts([tensor], found[:1]).tolist() == [0]


@pytest.mark.parametrize("dtype", [d for d in DTYPES if READINGS[d].is_float], ids=str)
@pytest.mark.parametrize("size", [1000, 300_000])
def test_non_finite_elements_are_counted(dtype: torch.dtype, size: int) -> None:
    """Every NaN and infinity, in every dtype that has them; the norm is not finite then."""
    tensor = random_of(dtype, size)
    tensor[:3] = torch.tensor(complex(NAN, NAN) if dtype.is_complex else NAN)
    bad = 3
    if math.isinf(abs(tensor.new_full((1,), INF).to(torch.complex128).item())):
        tensor[-2:] = INF
        bad = 5
    found = norms([tensor])
    assert not math.isfinite(found[0])
    assert nonfinite_counts([tensor, torch.ones(2)], np.array([found[0], 1.4])).tolist() == [bad, 0]


def test_infinity_alone() -> None:
    """A tensor with inf and no NaN has the norm inf, as large ones do."""
    small, large = torch.tensor([1.0, -INF]), torch.ones(300_000)
    large[7] = INF
    assert norms([small, large]).tolist() == [INF, INF]


def strided() -> dict[str, torch.Tensor]:
    """Tensors that are not contiguous."""
    return {
        "transposed": torch.randn(700, 900).t(),
        "channels last": torch.randn(64, 64, 10, 10).to(memory_format=torch.channels_last),
        "sliced": torch.randn(1000, 1000)[10:950:2, 5:990],
        "expanded": torch.randn(1, 1).expand(600, 700),
        "one row of many": torch.randn(3, 400_000)[:, ::2],
        "small": torch.randn(20, 30).t(),
    }


@pytest.mark.parametrize("name", strided())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32], ids=str)
def test_strides_do_not_matter(name: str, dtype: torch.dtype) -> None:
    """Norm and range of a strided tensor are those of its contiguous copy."""
    tensor = strided()[name].mul(10).to(dtype)
    if not tensor.is_contiguous() or name != "expanded":
        tensor = tensor.as_strided(tensor.shape, tensor.stride())
    low, high, _ = extremes([tensor])
    assert norms([tensor])[0] == pytest.approx(truth(tensor), rel=3e-7)
    assert (low[0], high[0]) == (float(tensor.double().min()), float(tensor.double().max()))


def test_ranges() -> None:
    """Smallest and largest element, large or small, whole numbers and fp8 too; the sum of small ones; NaN is passed on."""
    large = torch.randn(400_000)
    large[9], large[-1] = -77, 88
    spoiled = torch.tensor([1.0, NAN, 2.0])
    fp8 = torch.tensor([1.0, -448.0]).to(torch.float8_e4m3fn)
    parts = [large, spoiled, fp8, torch.tensor([True, False, True]), torch.tensor([7])]
    low, high, total = extremes(parts)
    np.testing.assert_array_equal(low, [-77, NAN, -448, 0, 7])
    np.testing.assert_array_equal(high, [88, NAN, 1, 1, 7])
    np.testing.assert_array_equal(total, [NAN, NAN, -447, 2, 7])


def odd() -> dict[str, torch.Tensor]:
    """Tensors that can't be swept."""
    freed = torch.zeros(8, 8)
    freed.untyped_storage().resize_(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.zeros(8, 8), 0.1, 0, torch.qint8)
    return {
        "sparse": torch.eye(8).to_sparse(),
        "meta": torch.empty(8, 8, device="meta"),
        "freed": freed,
        "quantized": quantized,
        "subclass": torch.nn.UninitializedParameter(),
    }


@pytest.mark.parametrize("name", odd())
def test_odd_tensors_are_no_data(name: str) -> None:
    """They say so beforehand, raise nothing, and leave the others alone."""
    tensor, sound = odd()[name], torch.ones(4)
    assert not can_norm(tensor)
    assert not can_extremes(tensor)
    found = norms([tensor, sound])
    np.testing.assert_array_equal(found, [NAN, 2])
    assert nonfinite_counts([tensor, sound], found).tolist() == [0, 0]
    np.testing.assert_array_equal(extremes([tensor, sound])[0], [NAN, 1])


def test_what_has_no_order() -> None:
    """Complex and empty tensors have a norm and no range."""
    for tensor in (torch.ones(3, dtype=torch.complex64), torch.empty(0)):
        assert can_norm(tensor)
        assert not can_extremes(tensor)
    assert norms([torch.empty(0, 7), torch.empty(0, dtype=torch.int64)]).tolist() == [0, 0]
    assert norms([]).tolist() == []
    assert [len(part) for part in extremes([])] == [0, 0, 0]


def test_nothing_of_the_trainer_is_touched() -> None:
    """Version counters, RNG, threads and gradient mode are as before; parameters need no detaching first."""
    weights = [torch.nn.Parameter(torch.randn(size)) for size in (10, 5000, 300_000)]
    weights.append(torch.nn.Parameter(torch.full((300_000,), 1e30)))
    versions = [weight._version for weight in weights]
    rng, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.device("meta"):
        found = norms(weights)
        nonfinite_counts(weights, np.full(len(weights), NAN))
        extremes(weights)
    assert np.isfinite(found).all()
    assert [weight._version for weight in weights] == versions
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert all(weight.requires_grad and weight.grad is None for weight in weights)


def test_inference_tensors() -> None:
    """Tensors made in inference mode are read as any other."""
    with torch.inference_mode():
        frozen = torch.ones(400_000)
    assert norms([frozen])[0] == pytest.approx(math.sqrt(400_000))
