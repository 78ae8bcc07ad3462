"""
Runs for steps-skipped.
"""

from __future__ import annotations

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals_monitor.detectors.steps_skipped import StepsSkipped
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _run(steps: int) -> Stream:
    stream = Stream(["a"])
    if steps:
        stream.optimizers([["a"]])
        stream.step(values={"*": 1.0}, steps=steps)
    stream.flush()
    return stream


@SCENARIOS.fires(StepsSkipped, Severity.WARNING, first_step=31, says="20 of the last 20")
def every_step_from_some_point_on() -> Stream:
    """A NaN in each gradient; the scale can't fall any further."""
    stream = _run(30)
    stream.attempts(50, 20, 20)
    return stream


@SCENARIOS.fires(StepsSkipped, Severity.WARNING, first_step=1)
def no_step_ever() -> Stream:
    """Nothing but the attempts is known."""
    stream = _run(0)
    stream.attempts(20, 20, 20)
    return stream


@SCENARIOS.fires(StepsSkipped, Severity.CRITICAL)
def no_step_for_long() -> Stream:
    """The scale keeps falling, and it does not help."""
    stream = _run(0)
    stream.attempts(60, 60, 20, scale_falls=True)
    return stream


@SCENARIOS.silent(StepsSkipped)
def scale_on_its_way_down() -> Stream:
    """A start at 2^65."""
    stream = _run(0)
    stream.attempts(20, 20, 20, scale_falls=True)
    stream.step(values={"*": 1.0}, steps=20)
    stream.attempts(60, 30, 2, scale_falls=True)
    return stream


@SCENARIOS.silent(StepsSkipped)
def one_skipped_now_and_then() -> Stream:
    """The scale was tried one higher."""
    stream = _run(100)
    stream.attempts(101, 1, 1)
    return stream
