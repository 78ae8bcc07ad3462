"""
Runs for learning-rate-zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals.contract import Contract
from trainvitals_monitor.detectors.learning_rate_zero import LearningRateZero
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _run(rates: Iterable[float | Sequence[float]], total_steps: int | None = None) -> Stream:
    """Two groups of one parameter each, at these rates."""
    stream = Stream(["a", "b"], contract=Contract(total_steps=total_steps))
    stream.optimizers([["a"], ["b"]])
    for rate in rates:
        both = [rate, rate] if isinstance(rate, (int, float)) else rate
        stream.step(values={"*": 1.0}, lr=both)
    return stream


def _decay(steps: int) -> list[float]:
    return [1e-3 * (1 - step / steps) for step in range(steps)]


@SCENARIOS.fires(LearningRateZero, Severity.WARNING, first_step=51, says="coming down")
def schedule_that_ends_too_early() -> Stream:
    """Training goes on for as long again."""
    return _run([*_decay(50), *([0.0] * 50)])


@SCENARIOS.fires(LearningRateZero, Severity.WARNING, first_step=1, says="since the attempt began")
def warm_up_that_is_never_stepped() -> Stream:
    """The first rate of the warm-up, for ever."""
    return _run([0.0] * 40)


@SCENARIOS.fires(LearningRateZero, Severity.WARNING, first_step=21)
def much_is_still_to_come() -> Stream:
    """The declared number of steps says so at once."""
    return _run([*_decay(20), 0.0, 0.0, 0.0], total_steps=100)


@SCENARIOS.fires(LearningRateZero, Severity.CRITICAL, subject="a", first_step=32, says="below zero")
def decay_that_goes_on_below_zero() -> Stream:
    """A line without a bound."""
    return _run([1e-3 * (1 - step / 30) for step in range(40)])


@SCENARIOS.silent(LearningRateZero)
def a_few_steps_after_the_end() -> Stream:
    """The number of steps was rounded."""
    return _run([*_decay(200), *([0.0] * 15)])


@SCENARIOS.silent(LearningRateZero)
def the_declared_end() -> Stream:
    """A schedule that ends with the training."""
    return _run([*_decay(98), 0.0, 0.0], total_steps=100)


@SCENARIOS.silent(LearningRateZero)
def one_group_at_rest() -> Stream:
    """Frozen by its rate."""
    return _run([(1e-3, 0.0)] * 60)


@SCENARIOS.silent(LearningRateZero)
def warm_up_from_zero() -> Stream:
    """One step, or twenty of them."""
    return _run([*([0.0] * 20), *([1e-3] * 40)])


@SCENARIOS.silent(LearningRateZero)
def negative_from_the_start() -> Stream:
    """Ascent on purpose, as for the multipliers of a constraint."""
    return _run([(1e-3, -1e-3)] * 40)
