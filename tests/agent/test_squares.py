"""Sums of squares: right to seven digits, at the edges of rows and stretches, without a thread."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainvitals.squares import Array, bfloat16_square_sum, square_sum

SIZES = [0, 1, 2, 1023, 1024, 2047, 2049, 4097, 32_768, 32_769, 131_072, 131_073, 300_001]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_element_counts_once(size: int, dtype: type[np.float32] | type[np.float64]) -> None:
    """Whole rows, what is left over, and nothing at all."""
    values: Array = np.random.default_rng(size).standard_normal(size).astype(dtype)
    assert square_sum(values) == pytest.approx(
        float((values.astype(np.float64) ** 2).sum()), rel=2e-7
    )


@pytest.mark.parametrize("size", SIZES)
def test_both_halves_of_a_word_count(size: int) -> None:
    """Neighbours of very different size: a half that were lost, or had the other's bits in it, would show."""
    values = (torch.randn(size) * torch.tensor([1.0, 1e4]).repeat(size // 2 + 1)[:size]).bfloat16()
    bits = values.view(torch.int16).numpy().view(np.uint16)
    exact = values.double()
    for begin in (0, min(1, size)):  # from the middle of a word on, too
        assert bfloat16_square_sum(bits[begin:]) == pytest.approx(
            float(exact[begin:].square().sum()), rel=2e-7
        )
    if size > 1:
        assert bfloat16_square_sum(bits[::2].copy()) == pytest.approx(
            float(exact[::2].square().sum()), rel=2e-7
        )


@pytest.mark.parametrize("size", [4096, 32_768, 1_000_000])
@pytest.mark.parametrize("value", [0.02, 0.7, 1.1, 3e-5])
def test_elements_that_are_alike(size: int, value: float) -> None:
    """Roundings that all go one way don't add up."""
    values = np.full(size, value, np.float32)
    exact = size * float(np.float32(value)) ** 2
    assert square_sum(values) == pytest.approx(exact, rel=4e-6)


def test_what_is_not_finite_stays_so() -> None:
    """NaN and infinity reach the sum, wherever they are."""
    for size in (10, 5000, 100_000):
        for position in (0, size - 1):
            values = np.ones(size, np.float32)
            values[position] = np.nan
            assert np.isnan(square_sum(values))
            values[position] = -np.inf
            assert square_sum(values) == np.inf
