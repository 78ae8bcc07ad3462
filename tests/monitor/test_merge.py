"""
Ranks' rows of one step become rows about whole tensors: the same ones in whatever order a frame has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trainvitals.facts import TABLE_BY_NAME
from trainvitals_monitor.history.merge import Piece, merge

TENSORS, RANKS = 50, 4
TABLES = ("values", "gradients", "digests", "extremes")
NEEDED = np.full(TENSORS, RANKS)


def _pieces(table: str) -> list[Piece]:
    """Each rank has a part of its own of every tensor, and tells of all in order."""
    rng = np.random.default_rng(0)
    columns = TABLE_BY_NAME[table].columns

    def column(dtype: str) -> npt.NDArray[Any]:
        if np.dtype(dtype).kind == "f":
            return rng.normal(size=TENSORS).astype(dtype)
        return rng.integers(0, 9, TENSORS).astype(dtype)

    return [
        (
            np.arange(TENSORS),
            np.arange(TENSORS) * RANKS + rank,
            {one.name: column(one.dtype) for one in columns},
        )
        for rank in range(RANKS)
    ]


@pytest.mark.parametrize("table", TABLES)
def test_the_order_of_rows_changes_nothing(table: str) -> None:
    """Not by a bit."""
    pieces = _pieces(table)
    order = np.random.default_rng(1).permutation(TENSORS)
    mixed = [
        (subject[order], part[order], {name: values[order] for name, values in columns.items()})
        for subject, part, columns in pieces
    ]
    columns = TABLE_BY_NAME[table].columns
    whole, made = merge(columns, pieces, NEEDED, TENSORS * RANKS)
    other, also = merge(columns, mixed, NEEDED, TENSORS * RANKS)
    assert whole.tolist() == other.tolist() == list(range(TENSORS))
    assert {name: values.tobytes() for name, values in made.items()} == {
        name: values.tobytes() for name, values in also.items()
    }


def test_a_part_is_counted_once() -> None:
    """The lowest rank speaks for it, in order or not; a tensor of which a part is missing is not there."""
    columns = TABLE_BY_NAME["values"].columns
    pieces = _pieces("values")
    again = [*pieces[:1], *pieces]
    expected = merge(columns, pieces, NEEDED, TENSORS * RANKS)
    found = merge(columns, again, NEEDED, TENSORS * RANKS)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1]["norm"].tobytes() == expected[1]["norm"].tobytes()
    assert not len(merge(columns, pieces[1:], NEEDED, TENSORS * RANKS)[0])
