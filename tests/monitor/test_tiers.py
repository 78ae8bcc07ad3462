"""
Old series: their thinner tiers say what the steps said, nothing is lost between tiers, and old steps go.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.monitor.runs import healthy
from tests.monitor.serving import serving
from trainvitals_monitor.chunks import pack
from trainvitals_monitor.config import Config
from trainvitals_monitor.pieces import PIECE_STEPS, Piece
from trainvitals_monitor.placing import Places
from trainvitals_monitor.reading import Place, read, tier_for
from trainvitals_monitor.store import Store
from trainvitals_monitor.thinning import AttemptThinning
from trainvitals_monitor.tiers import ENTRIES, HIGH, LOW, TIERS, Thinned, span, thin, thin_tile
from trainvitals_monitor.unpacking import unpack_tiles

_TENSORS = 11


def test_a_piece_fills_a_chunk_of_the_first_tier() -> None:
    """Tiers lie on multiples of what pieces lie on, so that a chunk is made of whole ones."""
    assert ENTRIES == PIECE_STEPS
    assert all(late % early == 0 for early, late in pairwise(TIERS))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_thin_tile_has_the_last_value_and_the_extremes_of_each_stretch(
    data: st.DataObject,
) -> None:
    """For any looks and any values, infinities and NaN among them, and tensors that came late."""
    every = 16
    steps = np.array(
        sorted(data.draw(st.sets(st.integers(2048, 2048 + 400), min_size=1))), np.int64
    )
    cut = data.draw(st.integers(0, len(steps) - 1))
    width = data.draw(st.integers(1, 8))
    numbers = st.sampled_from([0.0, 1.5, -2.5, 1e30, np.inf, -np.inf, np.nan])
    shape = (len(steps), width)
    values = np.array(
        data.draw(st.lists(numbers, min_size=steps.size * width, max_size=steps.size * width))
    ).reshape(shape)
    looks = st.lists(st.booleans(), min_size=steps.size * width, max_size=steps.size * width)
    seen = np.array(data.draw(looks), np.bool_).reshape(shape)
    narrow = data.draw(st.integers(1, width))
    seen[:cut, narrow:] = False
    parts = [
        (steps[:cut], {"norm": (values[:cut, :narrow], seen[:cut, :narrow])}),
        (steps[cut:], {"norm": (values[cut:], seen[cut:])}),
    ]
    chunk = thin_tile([part for part in parts if len(part[0])], 2048, every)
    if not seen.any():
        assert chunk is None
        return
    assert chunk is not None
    (blob,) = chunk.blobs
    assert blob is not None
    assert chunk.first_step == 2048
    ((entries, found),) = unpack_tiles(chunk.layout, [(chunk.first_step, blob)])
    stretches = np.unique(steps // every)
    assert entries.tolist() == [steps[steps // every == one].max() for one in stretches]
    for row, stretch in enumerate(stretches):
        mine = steps // every == stretch
        for tensor in range(width):
            own = values[mine, tensor][seen[mine, tensor]]
            assert found["norm"][1][row, tensor] == bool(len(own))
            if len(own):
                told = [
                    found[name][0][row, tensor] for name in ("norm", "norm" + LOW, "norm" + HIGH)
                ]
                np.testing.assert_allclose(told, [own[-1], own.min(), own.max()], rtol=1e-7)


def test_thinning_twice_is_thinning_once() -> None:
    """A stretch of 256 steps says the same, whether it was made of steps or of stretches of 16."""
    steps = np.arange(5, 3000, 3)
    values = np.sin(steps)
    series = Thinned(steps, values, values, values)
    for found, wanted in zip(thin(thin(series, 16), 256), thin(series, 256), strict=True):
        assert found.tolist() == wanted.tolist()


def _value(steps: Any, tensor: int) -> Any:
    return np.float32(1 + np.sin(steps / 50.0) + tensor)


def _filled(store: Store, steps: int, keep_steps: int | None, restart_every: int = 0) -> int:
    """An attempt of _TENSORS tensors and a scalar, piece by piece, as the writer would; its number."""
    places = Places()
    with store.writing() as writing:
        run = writing.add_run("run", 0.0)
        attempt_id = writing.add_attempt(run, "a", 1, 0.0)
    thinning = AttemptThinning(attempt_id, keep_steps)
    fqns = [f"layers.{number}.w" for number in range(_TENSORS)]
    for number, first in enumerate(range(0, steps, PIECE_STEPS)):
        at = np.arange(first, min(first + PIECE_STEPS, steps))
        values = np.stack([_value(at, tensor) for tensor in range(_TENSORS)], axis=1)
        piece = Piece(
            attempt="a",
            steps=at,
            fqns=fqns,
            statistics={"norm": (values, np.ones(values.shape, np.bool_))},
            scalars={"loss": (at, _value(at, 0))},
        )
        places.add(piece)
        chunk = places.tensor_chunk(piece)
        assert chunk is not None
        if restart_every and number % restart_every == 0:
            thinning = AttemptThinning(attempt_id, keep_steps)
        with store.writing() as writing:
            writing.put_chunk(attempt_id, "tensor", chunk)
            for tile, one in places.scalar_chunks(piece):
                writing.put_chunk(attempt_id, "scalar", one, tile)
            thinning.go_on(writing, int(at[-1]) + 1, places.num_tiles)
    return attempt_id


@pytest.mark.parametrize("every", [1, 16, 256])
@pytest.mark.parametrize("restart_every", [0, 3])
def test_every_stretch_is_told_once_whatever_tier_it_rests_in(
    tmp_path: Path, every: int, restart_every: int
) -> None:
    """Over 40,000 steps, of which the last are in no thin tier yet: read at any tier, nothing is missing or double."""
    steps = 40_000
    store = Store(str(tmp_path))
    attempt_id = _filled(store, steps, None, restart_every)
    for tensor in (0, _TENSORS - 1):
        place = Place(attempt_id, "tensor", *divmod(tensor, 8), "norm")
        found = thin(read(store, place, -1, 1 << 53, every), every)
        values = _value(np.arange(steps), tensor)
        wanted = thin(Thinned(np.arange(steps), values, values, values), every)
        assert found.steps.tolist() == wanted.steps.tolist()
        for mine, theirs in zip(found[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        part = read(store, place, 1000, 35_000, every)
        assert part.steps[0] >= 1000
        assert part.steps[-1] <= 35_000
    scalar = read(store, Place(attempt_id, "scalar", 0, 0, "value"), -1, 1 << 53, every)
    assert thin(scalar, every).steps.tolist() == wanted.steps.tolist()
    store.close()


def test_old_steps_are_deleted_once_thinner_ones_say_what_they_said(tmp_path: Path) -> None:
    """Of 100,000 steps 4,096 are kept one by one, 16 times as many in stretches of 16; every stretch is still told."""
    steps, kept = 100_000, 4096
    store = Store(str(tmp_path))
    attempt_id = _filled(store, steps, kept, restart_every=7)
    fine = store.chunks(attempt_id, "tensor", 1, -1, 1 << 53)
    middle = store.chunks(attempt_id, "tensor/16", 1, -1, 1 << 53)
    coarse = store.chunks(attempt_id, "tensor/256", 1, -1, 1 << 53)
    assert steps - kept - 2 * span(16) < fine[0].first_step <= steps - kept
    assert steps - 16 * kept - 2 * span(256) < middle[0].first_step <= steps - 16 * kept
    assert coarse[0].first_step == 0
    found = read(store, Place(attempt_id, "tensor", 1, 2, "norm"), -1, 1 << 53, 1)
    values = _value(np.arange(steps), 10)
    series = Thinned(np.arange(steps), values, values, values)
    again, wanted = thin(found, 256), thin(series, 256)
    assert again.steps.tolist() == wanted.steps.tolist()
    np.testing.assert_allclose(again.low, wanted.low, rtol=1e-6)
    np.testing.assert_allclose(again.high, wanted.high, rtol=1e-6)
    assert np.diff(found.steps).max() == 256
    assert found.steps[-kept:].tolist() == list(range(steps - kept, steps))
    store.close()


def test_chunks_of_other_lengths_are_cut_where_a_stretch_ends() -> None:
    """A large model has shorter pieces, some of which lie over the bounds of a thin chunk."""
    steps = np.arange(2000, 2100)
    values = steps[:, None].astype(np.float64)
    part = (steps, {"norm": (values, np.ones(values.shape, np.bool_))})
    first, second = thin_tile([part], 0, 16), thin_tile([part], 2048, 16)
    assert first is not None
    assert second is not None
    assert (first.last_step, second.last_step) == (2047, 2099)
    assert pack(steps, part[1]) is not None


@pytest.mark.parametrize(
    ("steps", "points", "every"),
    [(100, 100, 1), (101, 100, 16), (1600, 100, 16), (1601, 100, 256), (10**7, 100, 16**5)],
)
def test_a_series_is_thinned_to_the_points_that_were_asked_for(
    steps: int, points: int, every: int
) -> None:
    """By powers of 16."""
    assert tier_for(steps, points) == every


def test_a_long_series_is_answered_in_few_points(tmp_path: Path) -> None:
    """Over HTTP, with the last steps in memory only: last values and extremes; and step by step if asked for."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(healthy(300).frames)
        series = http.get_json("/api/v1/runs/run/series", tensor="w", points=30)
        assert (series["every"], len(series["steps"])) == (16, 19)
        values = [1 + step % 7 / 100 for step in range(1, 301)]
        assert series["steps"] == [*range(15, 300, 16), 300]
        np.testing.assert_allclose(series["values"], [values[step - 1] for step in series["steps"]])
        assert (series["low"][5], series["high"][5]) == pytest.approx((1.0, 1.06), rel=1e-6)
        whole = http.get_json("/api/v1/runs/run/series", tensor="w")
        assert (whole["every"], whole["low"], whole["high"]) == (1, [], [])


def test_the_worst_are_named_with_the_step_of_their_last_look(tmp_path: Path) -> None:
    """As many as were asked for, by a statistic that there is."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(healthy(3).frames)
        found = http.get_json("/api/v1/runs/run/worst", stat="norm", count=1)
        assert found["stat"] == "norm"
        ((worst),) = found["tensors"]
        assert worst["step"] == 3
        assert http.get("/api/v1/runs/run/worst", params={"stat": "beauty"}).status_code == 422
        assert http.get("/api/v1/runs/nobody/worst").status_code == 404
