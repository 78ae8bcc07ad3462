"""
Runs for gradient-not-cleared.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals_monitor.detectors.gradient_not_cleared import GradientNotCleared
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _kept(
    size: Callable[[int], float], *, cosine: float = 0.97, writes: int = 1, steps: int = 14
) -> Stream:
    """Gradients that are kept; `size` gives their norm by step."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    stream.step(gradients={"*": size(1)}, steps=2)
    for step in range(3, 3 + steps):
        before, now = size(step - 1), size(step)
        row = {
            "writes": writes,
            "kept_dot": cosine * before * now,
            "kept_before": before**2,
            "kept_square": now**2,
        }
        stream.step(gradients={"*": now}, kept={"a": row})
    return stream


@SCENARIOS.fires(GradientNotCleared, Severity.WARNING, subject="a", first_step=3, says="0.97")
def sums_of_all_past_gradients() -> Stream:
    """They grow with the number of steps."""
    return _kept(lambda step: float(step))


@SCENARIOS.fires(GradientNotCleared, Severity.WARNING)
def sums_of_unrelated_gradients() -> Stream:
    """Pure noise adds up to its root."""
    return _kept(lambda step: float(step) ** 0.5, cosine=0.9)


@SCENARIOS.silent(GradientNotCleared)
def cleared_in_place() -> Stream:
    """`set_to_none=False`: two writes a step; on a full batch gradients are parallel."""
    return _kept(lambda step: float(step), writes=2)


@SCENARIOS.silent(GradientNotCleared)
def full_batch_on_a_plateau() -> Stream:
    """Cleared where no version counts it: parallel, and of one size."""
    return _kept(lambda step: 1.0 + 0.01 * step, cosine=1.0)


@SCENARIOS.silent(GradientNotCleared)
def fresh_batches() -> Stream:
    """Cleared where no version counts it: gradients of different batches are not parallel."""
    return _kept(lambda step: float(step), cosine=0.5)


@SCENARIOS.silent(GradientNotCleared)
def new_gradients_at_each_step() -> Stream:
    """`set_to_none=True`, the default: nothing is kept."""
    stream = Stream(["a"])
    stream.optimizers([["a"]])
    for step in range(20):
        stream.step(gradients={"*": float(step)})
    return stream
