"""
What the trainer logged, by name: order, replacement and bounds.
"""

from __future__ import annotations

from trainvitals_monitor.history.scalars import MAX_SCALARS, MAX_VALUES, Scalars


def _last(scalars: Scalars, length: int, through: int) -> list[tuple[int, float]]:
    steps, values = scalars.last("loss", length, through)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def test_values_stand_by_step_whenever_they_come() -> None:
    """A late one takes its place; of two for a step the one that came last counts."""
    scalars = Scalars()
    for step, value in ((3, 0.3), (1, 0.1), (5, 0.5), (2, 0.2), (3, 0.33)):
        scalars.put("loss", step, value)
    assert _last(scalars, 10, 4) == [(1, 0.1), (2, 0.2), (3, 0.33)]
    assert _last(scalars, 2, 9) == [(3, 0.33), (5, 0.5)]
    assert _last(scalars, 2, 0) == []
    assert [len(one) for one in scalars.last("other", 2, 9)] == [0, 0]


def test_the_last_values_of_so_many_names_are_kept() -> None:
    """What is older than all that is kept is not taken; names beyond the bound are not either."""
    scalars = Scalars()
    for step in range(1, MAX_VALUES + 3):
        scalars.put("loss", step, float(step))
    scalars.put("loss", 1, 1.0)
    found = _last(scalars, 2 * MAX_VALUES, 2 * MAX_VALUES)
    assert (len(found), found[0], found[-1][0]) == (MAX_VALUES, (3, 3.0), MAX_VALUES + 2)
    for number in range(MAX_SCALARS + 5):
        scalars.put(f"other {number}", 1, 0.0)
    assert len(scalars.names) == MAX_SCALARS
