"""
Runs for gradient-not-cleared and gradient-clipped-away.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals_monitor.detectors.gradient_clipped_away import GradientClippedAway
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


@SCENARIOS.fires(GradientNotCleared, Severity.WARNING, says="and clipped")
def sums_that_are_clipped() -> Stream:
    """The norm stays at its bound; two writes are the backward pass and the clipping."""
    return _kept(lambda _: 1.0, writes=2)


@SCENARIOS.silent(GradientNotCleared)
def cleared_in_place_and_clipped() -> Stream:
    """A third write."""
    return _kept(lambda _: 1.0, cosine=1.0, writes=3)


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


def _clipped(norm: float, *, varied: float = 0.2, drift: float = 0.0, seen: str = "*") -> Stream:
    """Three parameters whose gradients have this norm together, and share it otherwise at each step."""
    stream = Stream(["a", "b", "c"])
    stream.optimizers([["a", "b", "c"]])
    for step in range(20):
        total = norm * (1 + drift * (step % 5))
        first = 0.5 + varied * (step % 3 - 1)
        rest = (1 - first**2) / 2
        shares = {"a": first, "b": rest**0.5, "c": rest**0.5}
        gradients = {name: total * share for name, share in shares.items() if seen in ("*", name)}
        stream.step(gradients=gradients, lr=0.3)
    return stream


@SCENARIOS.fires(GradientClippedAway, Severity.WARNING, subject="a", first_step=1, says="1.526e-05")
def clipped_before_unscaling() -> Stream:
    """A bound of 1, divided by the loss scale."""
    return _clipped(1 / 65536)


@SCENARIOS.silent(GradientClippedAway)
def clipped_at_every_step_by_design() -> Stream:
    """A bound that somebody chose."""
    return _clipped(0.1)


@SCENARIOS.silent(GradientClippedAway)
def small_gradients() -> Stream:
    """Near a minimum; they differ from step to step."""
    return _clipped(1e-5, drift=0.02)


@SCENARIOS.silent(GradientClippedAway)
def plateau_of_a_full_batch() -> Stream:
    """Nothing changes any more, neither in all nor in one."""
    return _clipped(1e-5, varied=1e-5)


@SCENARIOS.silent(GradientClippedAway)
def one_parameter_looked_at() -> Stream:
    """Its norm says nothing of all together."""
    return _clipped(1e-5, varied=0.0, seen="a")
