"""
The record keeps what probes measured, in order and within its bound.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

from trainvitals.events import SlotChanged
from trainvitals.record import MAX_NAME_LENGTH, MAX_NAMES, Record
from trainvitals_monitor.config import Limits
from trainvitals_monitor.header import MAX_NAME


def test_rows_of_a_table_are_joined() -> None:
    """What was added in several calls comes back as one table, in order, with the wire's dtypes."""
    record = Record(1 << 20)
    for step in (1, 2):
        record.add(
            "values", tensor=[0, 1], step=[step, step], norm=[1, 2], nonfinite=[0, 0], exact=[1, 1]
        )
    record.scalar("loss", 2, 0.5)
    record.event(SlotChanged(tensor=0, step=1, changes=["object"]))
    tables, events, tensors = record.take()
    np.testing.assert_array_equal(tables["values"]["step"], [1, 1, 2, 2])
    assert tables["values"]["norm"].dtype == np.float64
    assert tables["scalars"]["value"].tolist() == [0.5]
    assert len(events) == 1
    assert tensors == []
    assert record.take() == ({}, [], [])
    assert record.waiting_bytes == 0


def test_what_does_not_fit_is_counted() -> None:
    """Beyond the bound the oldest rows go, and how many is known."""
    record = Record(1000)
    for step in range(100):
        record.add("steps", step=[step], time=[0.0], seconds=[0.0], agent_seconds=[0.0])
    tables, _, _ = record.take()
    kept = tables["steps"]["step"]
    assert record.dropped_rows == 100 - len(kept)
    assert kept.tolist() == list(range(100 - len(kept), 100))
    assert 0 < len(kept) * 32 <= 1000


def test_names_without_end_cost_only_their_own_numbers() -> None:
    """A name for each step, or one of a page: what came before is told as always, and the rest is counted."""
    record = Record(1000)
    for step in range(300):
        record.scalar("loss", step, 1.0)
        record.scalar(f"loss of step {step}", step, 1.0)
    record.scalar("x" * 1000, 1, 1.0)
    tables, _, _ = record.take()
    assert len(record.scalar_names) == MAX_NAMES == Limits().scalars
    assert MAX_NAME_LENGTH == MAX_NAME
    assert (tables["scalars"]["scalar"] == 0).sum() == 300
    assert record.dropped_rows == 300 - 255 + 1


def test_two_threads_do_not_lose_count_of_what_waits() -> None:
    """One side adds while the other takes: at the end nothing waits, and nothing is said to."""
    record = Record(1 << 30)
    done = threading.Event()

    def take_all() -> None:
        while not done.is_set():
            record.take()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        taker = threading.Thread(target=take_all)
        taker.start()
        for step in range(5000):
            record.scalar("loss", step, 1.0)
        done.set()
        taker.join()
    finally:
        sys.setswitchinterval(interval)
    record.take()
    assert record.waiting_bytes == 0
