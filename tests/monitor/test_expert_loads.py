"""
Loads of a router that several ranks share are added up, and judged on the whole.
"""

from __future__ import annotations

import numpy as np
import pytest

from trainvitals_monitor.history.expert_loads import routing_of
from trainvitals_monitor.history.replicas import Told

NAMED = {0: np.array([7, 3]), 1: np.array([3, 7])}


def told(rank: int, tensor: int, choices: list[float], recent: list[float]) -> Told:
    """What one rank says of a router's experts."""
    count = len(choices)
    columns = {
        "expert": np.arange(count),
        "choices": np.array(choices),
        "recent": np.array(recent),
        "of_a_token": np.full(count, 1),
    }
    return Told(rank, np.full(count, tensor), columns)


def test_what_no_rank_chose_is_unused() -> None:
    """Each rank leaves out half of the experts, and only the last is left out by both."""
    one, other = told(0, 3, [8, 8, 0, 0], [80, 80, 0, 0]), told(1, 3, [0, 0, 16, 0], [0, 0, 99, 0])
    tensors, columns = routing_of([one, other], NAMED)
    assert tensors.tolist() == [3]
    row = {name: values[0] for name, values in columns.items()}
    assert row["unused"] == 1
    assert row["effective_experts"] == pytest.approx(2 * 2**0.5)
    assert row["busiest"] == pytest.approx(2.0)
    # Where counters hold the sum over ranks already, adding them would make more tokens than there were.
    assert row["recent_tokens"] == 160


def test_a_rank_that_did_not_look_makes_it_no_data() -> None:
    """Some of the tokens are not in. A rank without this router is not waited for."""
    one = told(0, 3, [8, 0], [8, 0])
    assert not len(routing_of([one], NAMED)[0])
    assert routing_of([one], {0: np.array([3]), 1: np.array([5])})[0].tolist() == [3]


def test_nonsense_is_passed_over() -> None:
    """Experts that there can't be, loads that are no numbers, routers that disagree about their size."""
    wild = told(0, 3, [8, float("nan"), -1], [8, 1, 1])
    wild.columns["expert"][2] = 1 << 30
    assert routing_of([wild], {0: np.array([3])})[1]["experts"].tolist() == [1]
    pair = [told(0, 3, [8, 1], [8, 1]), told(1, 3, [8, 1, 2], [8, 1, 2])]
    assert not len(routing_of(pair, NAMED)[0])
    assert not len(routing_of([], NAMED)[0])
