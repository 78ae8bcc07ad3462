"""
What the agent takes is measured where the trainer calls it, once, on every thread.
"""

from __future__ import annotations

import threading
import time

import pytest

from trainvitals import meter as module
from trainvitals.guard import Guard
from trainvitals.meter import Meter


class Hands:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.cpu = 0.0
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "thread_time", lambda: self.cpu)

    def work(self, seconds: float) -> None:
        self.now += seconds
        self.cpu += seconds

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The meter's clock."""
    return Hands(monkeypatch)


def test_what_passes_the_guard_is_counted_once(hands: Hands) -> None:
    """Calls within calls are part of the outermost; what the trainer does in between is not ours; nor is a failure free."""
    guard = Guard()

    def outer() -> None:
        hands.work(1.0)
        guard.call("inner", hands.work, 2.0)
        guard.attempt("inner", hands.work, 3.0)

    guard.call("outer", outer)
    hands.work(50.0)
    assert guard.meter.taken() == 6.0
    assert guard.meter.taken() == 0.0

    def fail() -> None:
        hands.work(4.0)
        raise ValueError

    guard.attempt("fails", fail)
    assert guard.meter.taken() == 4.0


def test_an_entry_that_asks_is_counted_so_far(hands: Hands) -> None:
    """A round ends within an entry: the rest of it belongs to the next."""
    meter = Meter()
    assert meter.enter()
    hands.work(1.0)
    assert meter.taken() == 1.0
    hands.work(2.0)
    meter.leave()
    assert meter.taken() == 2.0


def test_other_threads_count(hands: Hands) -> None:
    """Both what a trainer's other thread calls us for, even during an entry, and what our own threads say."""
    own = [0.0]
    meter = Meter(lambda: own[0])
    assert meter.enter()

    def elsewhere() -> None:
        assert meter.enter()
        hands.work(1.0)
        meter.leave()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    meter.leave()
    own[0] = 5.0
    assert meter.taken() == 1.0 + 1.0 + 5.0


def test_a_stall_is_not_ours(hands: Hands) -> None:
    """Where others had the processor, work counts as twice its CPU time at most; where a device was waited for, in full."""
    meter = Meter()
    for waits, part in ((False, 0.02), (True, 1.0)):
        meter.enter()
        hands.work(3.0)
        with meter.work(waits) as work:
            hands.work(1.0)
            hands.wait(99.0)
        hands.work(4.0)
        meter.leave()
        assert work.part == part
        assert meter.taken() == 7.0 + 100.0 * part
    with meter.work(waits=False) as work:
        hands.work(1.0)
        hands.wait(0.5)
    assert work.part == 1.0


def test_the_real_clock_moves() -> None:
    """Seconds, of a call that sleeps."""
    guard = Guard()
    guard.call("sleep", time.sleep, 0.01)
    assert guard.meter.taken() >= 0.01
