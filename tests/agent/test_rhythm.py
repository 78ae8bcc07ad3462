"""
When frames are due: once an interval, ranks evenly spread over it, whatever they do at the same time.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trainvitals.rhythm import MOST, Rhythm, share_of

RANKS = 1000


def _instants(share: float, interval_s: float, until: float, stride: float = 0.01) -> list[float]:
    """When a sender that looks at the clock every `stride` seconds makes its frames, facts always waiting."""
    rhythm = Rhythm(interval_s, share)
    rhythm.begin(100.0)
    made = 100.0
    found: list[float] = []
    for number in itertools.count(1):
        now = 100.0 + number * stride
        if now > 100.0 + until:
            return found
        if rhythm.has_come(made, now):
            made = now
            found.append(now - 100.0)
    raise AssertionError


@pytest.mark.parametrize("share", [0.25, 0.7, 1.0])
def test_an_instant_comes_once_an_interval(share: float) -> None:
    """At the share of each; the beginning is none."""
    found = _instants(share, 2.0, 9.9)
    expected = [2.0 * (share + number) for number in range(5) if 2.0 * (share + number) <= 9.9]
    assert found == pytest.approx(expected, abs=0.011)


def test_a_frame_out_of_turn_moves_no_instant() -> None:
    """A flush just before it: what comes after the flush leaves at the instant all the same."""
    rhythm = Rhythm(10.0, 0.5)
    rhythm.begin(0.0)
    assert not rhythm.has_come(since=0.0, now=4.9)
    assert rhythm.has_come(since=4.9, now=5.1)
    assert not rhythm.has_come(since=5.1, now=14.9)
    assert rhythm.has_come(since=5.1, now=15.0)


@pytest.mark.parametrize(
    ("budget", "cost_s", "every"),
    [
        (0.005, 0.0005, 1),
        (0.005, 0.0021, 3),
        (0.005, 0.1, MOST),
        (0.05, 0.0021, 1),
        (None, 0.1, 1),
    ],
)
def test_dear_frames_come_less_often(budget: float | None, cost_s: float, every: int) -> None:
    """So that they take a fifth of the budget, for the default interval of a second; without a budget they are free."""
    rhythm = Rhythm(1.0, 0.5, budget)
    rhythm.begin(0.0)
    rhythm.took(cost_s)
    assert not rhythm.has_come(since=0.6, now=every + 0.4)
    assert rhythm.has_come(since=0.6, now=every + 0.6)


def test_one_dear_frame_is_forgotten() -> None:
    """The first one, with a tensor table."""
    rhythm = Rhythm(1.0, 0.5, 0.005)
    rhythm.begin(0.0)
    for cost_s in (0.1, *[0.0005] * 20):
        rhythm.took(cost_s)
    assert rhythm.has_come(since=0.6, now=1.6)


@pytest.mark.parametrize("attempt", ["0", "a8f3", "restarted-2"])
def test_a_thousand_ranks_do_not_come_at_once(attempt: str) -> None:
    """In no tenth of the interval are there more than a few over a tenth of them, wherever the tenth lies."""
    shares = np.sort([share_of(attempt, rank) for rank in range(RANKS)])
    assert shares[0] > 0
    assert shares[-1] <= 1
    gaps = np.diff(np.concatenate([shares, shares[:1] + 1]))
    assert gaps.max() < 3 / RANKS
    within = np.searchsorted(np.concatenate([shares, shares + 1]), shares + 0.1) - np.arange(RANKS)
    assert within.max() <= RANKS / 10 + 5


def test_a_rank_keeps_its_place_and_attempts_differ() -> None:
    """Nothing is drawn: every process says the same of a rank."""
    assert share_of("a", 7) == share_of("a", 7)
    assert share_of("a", 7) != share_of("b", 7)
