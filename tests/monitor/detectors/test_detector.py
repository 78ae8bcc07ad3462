"""
The base of detectors: thresholds per tensor, and looking back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.monitor.detectors import rate_scenarios
from tests.monitor.detectors.movement_scenarios import held_with_a_gradient_and_still
from tests.monitor.stream import Stream, feed
from trainvitals_monitor.detectors.parameter_stuck import ParameterStuck
from trainvitals_monitor.detectors.schedule_ended_early import ScheduleEndedEarly
from trainvitals_monitor.detectors.stretch import stretch_of
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.overrides import Tuning


def test_an_override_holds_for_the_tensors_that_it_names() -> None:
    """A threshold raised for one pattern silences those tensors only."""
    stream = held_with_a_gradient_and_still()
    stream.flush()
    for pattern, expected in (("a", 0), ("b", 1), ("*", 0)):
        engine = Engine(
            "run", [ParameterStuck], Tuning({"parameter-stuck": {pattern: {"steps": 100}}})
        )
        feed(engine, stream.frames)
        engine.finish()
        assert len(engine.findings) == expected


def test_a_stretch_ends_at_the_last_good_look() -> None:
    """Looks that were not made break nothing; a good one does; without a bad one there is no stretch."""
    bad = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], bool)
    seen = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    stretch = stretch_of(bad, seen, np.array([5, 6, 7, 8]))
    assert stretch.looks.tolist() == [2, 3, 0]
    assert stretch.first_step.tolist() == [7, 5, -1]
    assert stretch.last_good_step.tolist() == [6, -1, 8]


@pytest.mark.parametrize(
    "make",
    [rate_scenarios.end_declared_in_microbatches, rate_scenarios.plateaus_down_to_their_floor],
)
def test_a_sound_schedule_is_not_even_worth_knowing(make: Callable[[], Stream]) -> None:
    """Info, too, has to be about something."""
    assert make().engine([ScheduleEndedEarly]).findings == []
