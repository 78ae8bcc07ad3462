"""
Which ranks count as reporting: by when their frames came, whatever their machines' clocks say.
"""

from __future__ import annotations

import pytest

from tests.monitor.stream import Stream
from trainvitals_monitor.hearing import REPORTING_S, Hearing


def test_ranks_report_until_they_are_silent_while_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run that is silent as a whole all report; a rank that nothing was heard of since a restart does not for long."""
    now = 1000.0
    monkeypatch.setattr("trainvitals_monitor.hearing.time.monotonic", lambda: now)
    stream = Stream(["w"], world_size=3)
    stream.step(values={"w": 1.0})
    attempt = stream.engine().history.current
    assert attempt is not None
    heard = Hearing()
    assert heard.num_reporting(None) == 0
    assert heard.num_reporting(attempt) == 3
    now += 9 * REPORTING_S
    assert heard.num_reporting(attempt) == 3
    heard.hear(attempt.key, 0)
    heard.hear(attempt.key, 1)
    assert heard.num_reporting(attempt) == 2
    now += REPORTING_S / 2
    heard.hear(attempt.key, 2)
    assert heard.num_reporting(attempt) == 3
    now += REPORTING_S
    heard.hear(attempt.key, 2)
    assert heard.num_reporting(attempt) == 1


def test_a_rank_that_is_done_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks close one after the other: the first may still evaluate and save for an hour."""
    now = 1000.0
    monkeypatch.setattr("trainvitals_monitor.hearing.time.monotonic", lambda: now)
    stream = Stream(["w"], world_size=2)
    stream.step(values={"w": 1.0})
    attempt = stream.engine().history.current
    assert attempt is not None
    heard = Hearing()
    now += 60 * REPORTING_S
    heard.hear(attempt.key, 0)
    assert heard.num_reporting(attempt) == 1
    attempt.ranks[1].phase = "closed"
    assert heard.num_reporting(attempt) == 2
