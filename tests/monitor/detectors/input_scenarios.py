"""
Runs for batch-repeated and workers-fed-same-data.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals_monitor.detectors.batch_repeated import BatchRepeated
from trainvitals_monitor.detectors.workers_fed_same_data import WorkersFedSameData
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _run(repeats: Iterable[int]) -> Stream:
    """One step for each number; 0: nothing is said."""
    stream = Stream(["a"])
    stream.optimizers([["a"]])
    for count in repeats:
        if count:
            stream.draws(count)
        stream.step(values={"*": 1.0}, lr=1e-3)
    return stream


@SCENARIOS.fires(BatchRepeated, Severity.WARNING, first_step=4, says="same 1 of the 80")
def first_batch_for_ever() -> Stream:
    """From the second batch on it is the first."""
    return _run([0, 0, 0, *range(1, 20)])


@SCENARIOS.silent(BatchRepeated)
def five_steps_on_a_batch() -> Stream:
    """Again and again."""
    return _run([0, 1, 2, 3, 4] * 8)


def _drawn(alike: int) -> Stream:
    """Eight rounds of two workers; in so many both gave the same batch."""
    stream = _run([0] * 16)
    stream.workers(alike)
    stream.step(values={"*": 1.0}, lr=1e-3)
    return stream


@SCENARIOS.fires(WorkersFedSameData, Severity.WARNING, first_step=17, says="comes 2 times")
def stream_that_is_not_split() -> Stream:
    """Each worker gives all of it."""
    return _drawn(8)


@SCENARIOS.silent(WorkersFedSameData)
def stream_of_few_samples() -> Stream:
    """Two workers give the same now and then."""
    return _drawn(3)


@SCENARIOS.silent(WorkersFedSameData)
def made_up_data() -> Stream:
    """A speed test: all batches are one, which counts as other than the one before once."""
    return _drawn(1)
