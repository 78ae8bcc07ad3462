"""Sums of squares: right to seven digits, at the edges of rows and stretches, without a thread."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainvitals import squares
from trainvitals.squares import Array, Widener, square_sums

SIZES = [0, 1, 2, 1023, 1024, 2047, 2049, 4097, 32_768, 32_769, 131_072, 131_073, 300_001]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_element_counts_once(size: int, dtype: type[np.float32] | type[np.float64]) -> None:
    """Whole rows, what is left over, and nothing at all; a vector's sum is the same beside others."""
    values: Array = np.random.default_rng(size).standard_normal((3, size)).astype(dtype)
    sums = square_sums(values)
    assert sums.tolist() == pytest.approx((values.astype(np.float64) ** 2).sum(axis=1), rel=2e-7)
    assert [float(square_sums(vector[None])[0]) for vector in values] == sums.tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_widened_stretches(size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch is widened at a time, and what an earlier tensor left in the room is not read again."""
    monkeypatch.setattr(squares, "_WIDENED", 50_000)
    widener = Widener()
    for length in (size, size // 3, size + 1):
        values = (torch.randn(length) * 100).to(dtype)
        exact = float(values.double().square().sum())
        assert widener.square_sum(values) == pytest.approx(exact, rel=2e-7)


@pytest.mark.parametrize("size", [4096, 32_768, 1_000_000])
@pytest.mark.parametrize("value", [0.02, 0.7, 1.1, 3e-5])
def test_elements_that_are_alike(size: int, value: float) -> None:
    """Roundings that all go one way don't add up."""
    values = np.full((1, size), value, np.float32)
    exact = size * float(np.float32(value)) ** 2
    assert square_sums(values)[0] == pytest.approx(exact, rel=1e-6)


def test_what_is_not_finite_stays_so() -> None:
    """NaN and infinity reach the sum, wherever they are."""
    for size in (10, 5000, 100_000):
        for position in (0, size - 1):
            values = np.ones((1, size), np.float32)
            values[0, position] = np.nan
            assert np.isnan(square_sums(values)[0])
            values[0, position] = -np.inf
            assert square_sums(values)[0] == np.inf
