"""
Runs for gradient-not-cleared, gradient-clipped-away, gradient-vanishing, gradient-explosion and
update-ratio-out-of-range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.gradient_clipped_away import GradientClippedAway
from trainvitals_monitor.detectors.gradient_explosion import GradientExplosion
from trainvitals_monitor.detectors.gradient_not_cleared import GradientNotCleared
from trainvitals_monitor.detectors.gradient_vanishing import GradientVanishing
from trainvitals_monitor.detectors.update_ratio_out_of_range import UpdateRatioOutOfRange
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


def _shares(front: float, *, middle: float = 0.01, names: tuple[str, ...] = ("SGD",)) -> Stream:
    """A chain of three weights; gradients of the first, of the second and of 1."""
    chain = [tensor(fqn, shape=[8, 8]) for fqn in ("front", "middle", "head")]
    stream = Stream(chain)
    if len(names) > 1:
        stream.optimizers([["front"], ["middle", "head"]], names=names, group_optimizer=[0, 1])
    else:
        stream.optimizers([["front", "middle", "head"]], names=names)
    gradients = {"front": front, "middle": middle, "head": 1.0}
    stream.step(values={"*": 8.0}, gradients=gradients, lr=0.1, steps=20)
    return stream


@SCENARIOS.fires(GradientVanishing, Severity.WARNING, subject="front", first_step=1, says="front")
def lost_on_the_way() -> Stream:
    """A trillionth arrives."""
    return _shares(1e-12)


@SCENARIOS.silent(GradientVanishing)
def scaled_by_a_millionth() -> Stream:
    """Layer scales begin there."""
    return _shares(1e-7)


@SCENARIOS.silent(GradientVanishing)
def branch_that_feeds_nothing() -> Stream:
    """The last one is not before anything."""
    stream = Stream([tensor("body", shape=[8, 8]), tensor("other", shape=[3, 8])])
    stream.optimizers([["body", "other"]])
    stream.step(gradients={"body": 1.0, "other": 1e-12}, lr=0.1, steps=20)
    return stream


@SCENARIOS.silent(GradientVanishing)
def players_of_a_game() -> Stream:
    """A generator is not compared with its critic."""
    return _shares(1e-12, names=("Adam", "Adam"))


def _steps(
    ratio: float,
    *,
    grad: float = 1.0,
    lr: float = 0.1,
    varied: float = 0.1,
    name: str = "SGD",
    **stream_of: Any,
) -> Stream:
    """Two weights of norm 8 whose steps have this ratio to it."""
    stream = Stream([tensor("a", shape=[8, 8]), tensor("b", shape=[8, 8])], **stream_of)
    stream.optimizers([["a", "b"]], names=(name,))
    for step in range(20):
        loss = 1.4 + varied * (step % 3)
        updates = {"*": 8.0 * ratio}
        stream.step(values={"*": 8.0}, gradients={"*": grad}, updates=updates, lr=lr, loss=loss)
    return stream


@SCENARIOS.fires(UpdateRatioOutOfRange, Severity.WARNING, subject="a", first_step=1)
def divided_by_the_loss_scale() -> Stream:
    """A millionth of the norm in each step."""
    return _steps(1e-6)


@SCENARIOS.fires(UpdateRatioOutOfRange, Severity.INFO)
def full_batch_at_rest() -> Stream:
    """The same loss at each step: it may have converged before the run began."""
    return _steps(1e-7, varied=0.0)


@SCENARIOS.silent(UpdateRatioOutOfRange)
def small_rate_of_choice() -> Stream:
    """AdamW takes steps of the size that its rate asks for: 1e-7 in each of 64 elements, of a norm of 8."""
    return _steps(1e-7, lr=1e-7, name="AdamW")


@SCENARIOS.fires(UpdateRatioOutOfRange, Severity.WARNING, subject="a")
def gradients_below_eps() -> Stream:
    """AdamW takes steps a thousand times smaller than its rate asks for."""
    return _steps(1e-7, lr=1e-4, name="AdamW")


@SCENARIOS.silent(UpdateRatioOutOfRange)
def small_steps() -> Stream:
    """A cautious fine-tuning."""
    return _steps(1e-4)


@SCENARIOS.silent(UpdateRatioOutOfRange)
def run_that_goes_on() -> Stream:
    """It may have converged."""
    return _steps(1e-7, base_step=1000)


@SCENARIOS.silent(UpdateRatioOutOfRange)
def no_steps_at_all() -> Stream:
    """A learning rate of zero is another matter."""
    return _steps(0.0, lr=0.0)


@SCENARIOS.silent(UpdateRatioOutOfRange)
def warm_up() -> Stream:
    """Rates that rise at each step."""
    stream = Stream([tensor("a", shape=[8, 8])])
    stream.optimizers([["a"]])
    for step in range(40):
        ratio = 4e-8 * step
        stream.step(
            values={"*": 8.0}, gradients={"*": 1.0}, updates={"*": 8 * ratio}, lr=1e-6 * step
        )
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


def _sizes(sizes: list[float]) -> Stream:
    """Gradients of these norms: all of "a"'s, and a hundredth of each for "b"."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    for size in sizes:
        stream.step(gradients={"a": size, "b": 0.01 * min(size, 2.0)})
    return stream


def _noisy(count: int, scale: float = 1.0) -> list[float]:
    return [scale * (1.0 + 0.5 * (step * 7 % 5)) for step in range(count)]


@SCENARIOS.fires(GradientExplosion, Severity.INFO, subject="a", says="not come down")
def gradients_that_are_amplified() -> Stream:
    """Half as much again at every step, for ever."""
    return _sizes([*_noisy(20), *(1.5**step for step in range(60))])


@SCENARIOS.fires(GradientExplosion, Severity.INFO, subject="a", first_step=41)
def gradients_that_leap_and_stay() -> Stream:
    """From one step to the next."""
    return _sizes([*_noisy(40), *([5e3] * 6)])


@SCENARIOS.silent(GradientExplosion)
def batch_that_throws_gradients_off() -> Stream:
    """Two steps, and over."""
    return _sizes([*_noisy(40), 5e4, 8e3, *_noisy(20)])


@SCENARIOS.silent(GradientExplosion)
def rise_of_two_orders() -> Stream:
    """A harder phase of the training."""
    return _sizes([*_noisy(40), *_noisy(40, 100.0)])


@SCENARIOS.silent(GradientExplosion)
def leap_that_comes_down() -> Stream:
    """A fresh head: its gradients shrink with every step."""
    return _sizes([*_noisy(40), *(5e4 * 0.7**step for step in range(40))])
