"""
Blocks of samples: what is written, what is left out, and where one is cut.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainvitals_monitor.metrics.block import Series, blocks
from trainvitals_monitor.metrics.layout import Cells, Group
from trainvitals_monitor.metrics.spec import MetricSpec
from trainvitals_monitor.metrics.state import OFFENDERS, largest

SPEC = MetricSpec("norm", "gauge", ("run", "tensor"), "A norm.", 8)
ODD = 'a "100%r" \\ \u2028 \n %'


def _series(*tensors: str) -> Series:
    return Series(SPEC, [(ODD, tensor) for tensor in tensors])


def _line(tensor: str, value: str) -> str:
    return f'norm{{run="a \\"100%r\\" \\\\ \u2028 \\n %",tensor="{tensor}"}} {value}\n'


def test_odd_names_are_written_as_they_are() -> None:
    """Percent signs, quotes, backslashes and line ends, of many samples and of single ones."""
    assert _series("x").block(np.array([0.1])).text().decode() == _line("x", "0.1")
    assert [one.text().decode() for one in blocks({"norm": SPEC}, [("norm", (ODD, "x"), 0.1)])] == [
        _line("x", "0.1")
    ]


def test_who_has_no_value_has_no_sample() -> None:
    """At every scrape anew."""
    series = _series("x", "y", "z")
    for values in ([1.0, math.nan, 2.5], [1.0, 2.0, 2.5], [math.nan] * 3, [math.nan, 7.0, 8.0]):
        block = series.block(np.array(values))
        known = [(t, v) for t, v in zip("xyz", values, strict=True) if not math.isnan(v)]
        assert block.text().decode() == "".join(
            _line(tensor, f"{value:g}") for tensor, value in known
        )
        assert len(block.values) == len(known)
    assert blocks({"norm": SPEC}, [("norm", (ODD, "x"), math.nan)]) == []


def test_a_block_is_cut_between_samples() -> None:
    """The first ones stay."""
    block = _series("x", "y", "z").block(np.array([1.0, 2.0, 3.0]))
    assert block.first(2).text().decode() == _line("x", "1") + _line("y", "2")
    assert block.first(0).text().decode() == ""
    assert block.first(3) is block


@pytest.mark.parametrize("value", [1e-30, 999_999_999_999.0, 1 / 3, float(np.float32(1 / 3)), 1e30])
def test_values_keep_what_they_say(value: float) -> None:
    """A float32 comes back as it was, a count to the last one; single samples to the last bit."""
    written = float(_series("x").block(np.array([value])).text().decode().rpartition(" ")[2])
    assert np.float32(written) == np.float32(value)
    assert written == pytest.approx(value, rel=1e-11)
    assert not value.is_integer() or value > 1e12 or written == value
    (single,) = blocks({"norm": SPEC}, [("norm", ("r", "x"), value)])
    assert float(single.text().decode().rpartition(" ")[2]) == value


def test_cells_sum_as_layers_and_roles_do() -> None:
    """Whatever the order of tensors; those in no group count nowhere; no tensor, no cell."""
    rng = np.random.default_rng(0)
    layers, roles = rng.integers(-1, 3, 50), rng.integers(-1, 2, 50)
    cells = Cells.of(Group(layers, ["a", "b", "c"]), Group(roles, ["p", "q"]))
    row = rng.random(50)
    row[::5] = np.nan
    sums, known = cells.sums(row)
    for numbers, of_cell in ((layers, cells.layer), (roles, cells.role)):
        for number in range(-1, numbers.max() + 1):
            own = row[numbers == number]
            assert sums[of_cell == number].sum() == pytest.approx(np.nansum(own))
            assert known[of_cell == number].any() == np.isfinite(own).any()
    nothing = np.zeros(0, np.int64)
    empty = Cells.of(Group(nothing, []), Group(nothing, []))
    assert [len(one) for one in empty.sums(row[:0])] == [0, 0]


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_the_largest_are_found(size: int) -> None:
    """Of few and of many, unknown ones and equals among them; the first of equals."""
    rng = np.random.default_rng(size)
    for values in (rng.random(size), rng.integers(0, 3, size) / 2, np.full(size, np.nan)):
        values[rng.random(size) < 0.3] = np.nan
        known = [i for i in range(size) if not math.isnan(values[i])]
        assert largest(values) == sorted(known, key=lambda i: -values[i])[:OFFENDERS]
