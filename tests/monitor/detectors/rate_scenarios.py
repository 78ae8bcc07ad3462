"""
Runs for learning-rate-zero, learning-rate-vanished, learning-rate-jump, schedule-ended-early and schedule-overrun.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals.contract import Contract
from trainvitals_monitor.detectors.learning_rate_jump import LearningRateJump
from trainvitals_monitor.detectors.learning_rate_vanished import LearningRateVanished
from trainvitals_monitor.detectors.learning_rate_zero import LearningRateZero
from trainvitals_monitor.detectors.schedule_ended_early import ScheduleEndedEarly
from trainvitals_monitor.detectors.schedule_overrun import ScheduleOverrun
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _run(
    rates: Iterable[float | Sequence[float]],
    total_steps: int | None = None,
    default: float | None = None,
) -> Stream:
    """Two groups of one parameter each, at these rates; `default`: what the optimizer was made with."""
    stream = Stream(["a", "b"], contract=Contract(total_steps=total_steps))
    stream.optimizers([["a"], ["b"]], default_lr=[default])
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


def _wrapped(within: float, held: Sequence[str]) -> Stream:
    """A wrapper that has groups of its own and is never heard to step, around an optimizer that holds these."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"], held], names=("Wrapper", "AdamW"), group_optimizer=[0, 1])
    for _ in range(40):
        stream.step(values={"*": 1.0}, lr=[math.nan, within])
    return stream


@SCENARIOS.fires(LearningRateZero, Severity.WARNING, first_step=1, says="since the attempt began")
def schedule_of_a_wrapper() -> Stream:
    """The rates that a schedule sets are the wrapper's; the optimizer within steps with its own."""
    return _wrapped(0.0, ["a", "b"])


@SCENARIOS.silent(LearningRateZero)
def optimizer_without_a_rate_beside_one_at_zero() -> Stream:
    """Some take the size of their steps from elsewhere, and train what no other holds."""
    return _wrapped(0.0, ["a"])


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
    return _run([(1e-3, 0.0)] * 60, default=1e-3)


@SCENARIOS.fires(LearningRateZero, Severity.WARNING, subject="b", first_step=1, says="nobody set")
def group_that_nobody_set() -> Stream:
    """The optimizer was made with zero, and the loop reaches one group only."""
    return _run([(rate, 0.0) for rate in _decay(60)], default=0.0)


@SCENARIOS.silent(LearningRateZero)
def group_that_comes_to_rest() -> Stream:
    """It had a rate, and is frozen later on."""
    return _run([*([1e-3] * 5), *([(1e-3, 0.0)] * 60)], default=0.0)


@SCENARIOS.silent(LearningRateZero)
def group_that_begins_later() -> Stream:
    """A schedule of its own, with a rest of twenty steps before it."""
    return _run([*([(1e-3, 0.0)] * 20), *([1e-3] * 40)], default=0.0)


@SCENARIOS.silent(LearningRateZero)
def warm_up_from_zero() -> Stream:
    """One step, or twenty of them."""
    return _run([*([0.0] * 20), *([1e-3] * 40)])


@SCENARIOS.silent(LearningRateZero)
def negative_from_the_start() -> Stream:
    """Ascent on purpose, as for the multipliers of a constraint."""
    return _run([(1e-3, -1e-3)] * 40)


@SCENARIOS.fires(LearningRateVanished, Severity.WARNING, subject="b", first_step=50)
def factor_in_every_step() -> Stream:
    """One group's rate loses a quarter in every step."""
    return _run([(1e-3, 1e-3 * 0.75**step) for step in range(70)])


@SCENARIOS.silent(LearningRateVanished)
def decay_for_steps() -> Stream:
    """By a tenth of a percent in each, as far as it gets."""
    return _run([1e-3 * 0.999**step for step in range(400)])


@SCENARIOS.silent(LearningRateVanished)
def decay_by_epochs() -> Stream:
    """By a fifth every twenty steps, for far too many epochs."""
    return _run([1e-3 * 0.8 ** (step // 20) for step in range(1500)])


@SCENARIOS.silent(LearningRateVanished)
def cosines_to_zero() -> Stream:
    """They begin again and again, each next to zero at its end."""
    return _run(
        [1e-3 * 0.5 * (1 + math.cos(math.pi * (step % 50) / 49.999)) for step in range(200)]
    )


@SCENARIOS.silent(LearningRateVanished)
def power_to_zero() -> Stream:
    """The fourth power of what is left."""
    return _run([1e-3 * (1 - step / 300) ** 4 for step in range(300)])


@SCENARIOS.silent(LearningRateVanished)
def lower_bound() -> Stream:
    """A fast decay that ends at a thousandth."""
    return _run([max(1e-6, 1e-3 * 0.7**step) for step in range(100)])


def _cosine(steps: int, period: int, low: float = 0.0) -> list[float]:
    """Down to `low` in a period, and up again in the next."""
    return [low + 5e-4 * (1 + math.cos(math.pi * step / period)) for step in range(steps)]


@SCENARIOS.fires(ScheduleOverrun, Severity.WARNING, subject="a", first_step=42, says="schedule is")
def cosine_beyond_its_end() -> Stream:
    """Followed for twice its steps."""
    return _run(_cosine(60, 40))


@SCENARIOS.fires(ScheduleOverrun, Severity.WARNING, first_step=83)
def cosine_by_epochs_beyond_its_end() -> Stream:
    """The rate changes at every second step, and the lowest is a thousandth of the peak."""
    return _run([rate for rate in _cosine(60, 40, 1e-6) for _ in range(2)])


@SCENARIOS.fires(ScheduleOverrun, Severity.INFO, first_step=42, says="or a wave")
def wave_over_a_floor() -> Stream:
    """Never below a twentieth: so it may be meant."""
    return _run(_cosine(60, 40, 5e-5))


@SCENARIOS.silent(ScheduleOverrun)
def cosine_to_its_end_and_a_constant() -> Stream:
    """Clamped."""
    return _run([*_cosine(41, 40), *([0.0] * 20)])


@SCENARIOS.silent(ScheduleOverrun)
def warm_restarts() -> Stream:
    """Back to the peak at once."""
    return _run(_cosine(40, 40) * 3)


@SCENARIOS.silent(ScheduleOverrun)
def triangles() -> Stream:
    """CyclicLR: up and down along straight lines."""
    return _run([1e-3 * abs(20 - step % 40) / 20 for step in range(120)])


@SCENARIOS.silent(ScheduleOverrun)
def second_warm_up() -> Stream:
    """A cosine to zero, and a line up."""
    return _run([*_cosine(40, 40), *(1e-5 * step for step in range(40))])


def _to_floor(
    decay: int,
    tail: int,
    total: int | None = 200,
    ranks: int = 1,
    passes: float = 1,
    then: Sequence[float] = (),
) -> Stream:
    """
    Down to a tenth of the peak within `decay` steps, and `tail` more there, and `then` these; `passes`: backward passes in
    a step.
    """
    falling = [1e-3 * (1 - 0.9 * step / decay) for step in range(decay)]
    return _declared([*falling, *([1e-4] * tail), *then], total, ranks, passes)


def _declared(
    rates: Iterable[float], total: int | None, ranks: int = 1, passes: float = 1
) -> Stream:
    stream = Stream(["a", "b"], contract=Contract(total_steps=total), world_size=ranks)
    stream.optimizers([["a", "b"]])
    for rate in rates:
        calls = None if passes == 1 else {"backward_calls": float(passes)}
        stream.step(values={"*": 1.0}, lr=rate, scalars=calls)
    return stream


@SCENARIOS.fires(
    ScheduleEndedEarly, Severity.INFO, subject="a", first_step=51, says="were stepped 4 times"
)
def schedule_stepped_per_microbatch() -> Stream:
    """Four backward passes in a step, and the decay is over after a quarter of the declared steps."""
    return _to_floor(50, 55, passes=4)


@SCENARIOS.fires(ScheduleEndedEarly, Severity.WARNING, first_step=101, says="stepped 2 times")
def schedule_stepped_per_process() -> Stream:
    """Two processes, and half of the steps."""
    return _to_floor(100, 55, ranks=2)


@SCENARIOS.fires(ScheduleEndedEarly, Severity.WARNING, first_step=201, says="stepped 4 times")
def schedule_stepped_per_process_where_steps_rest() -> Stream:
    """After the first of them two of ten are looked at."""
    stream = Stream(["a"], contract=Contract(total_steps=800), world_size=4)
    stream.optimizers([["a"]])
    for step in range(400):
        looked = step < 50 or step % 10 < 2
        rate = 1e-3 * max(0.1, 1 - 0.9 * step / 200)
        stream.step(values={"*": 1.0}, lr=rate if looked else None)
    return stream


@SCENARIOS.fires(ScheduleEndedEarly, Severity.WARNING, first_step=51, says="stepped 4 times")
def a_scalar_without_a_value() -> Stream:
    """What the trainer logs under the agent's name is no number."""
    return _to_floor(50, 55, ranks=4, passes=math.nan)


@SCENARIOS.fires(ScheduleEndedEarly, Severity.INFO, first_step=41)
def short_decay_of_a_long_training() -> Stream:
    """A fifth of the declared steps, by which nothing is stepped too often: it may be meant."""
    return _to_floor(40, 45)


@SCENARIOS.silent(ScheduleEndedEarly)
def end_declared_in_microbatches() -> Stream:
    """Four in each of 200 steps, and the floor is reached after three quarters of those."""
    return _to_floor(150, 50, total=800, passes=4, ranks=2)


@SCENARIOS.silent(ScheduleEndedEarly)
def two_losses_and_a_tail_that_is_meant() -> Stream:
    """Half of the declared steps, and a `backward()` of each loss."""
    return _to_floor(100, 90, passes=2)


@SCENARIOS.silent(ScheduleEndedEarly)
def two_stages_with_a_rest_between() -> Stream:
    """The first takes a quarter of the declared steps, on four processes."""
    return _to_floor(50, 20, ranks=4, then=[1e-4 + 1e-5 * step for step in range(50)])


@SCENARIOS.silent(ScheduleEndedEarly)
def plateaus_down_to_their_floor() -> Stream:
    """A tenth less at every fifth step, until an eighth of the declared steps, on as many processes."""
    return _declared([max(1e-4, 1e-3 * 0.9 ** (step // 5)) for step in range(230)], 880, ranks=8)


@SCENARIOS.silent(ScheduleEndedEarly)
def tail_at_the_floor() -> Stream:
    """The decay takes two thirds of the declared steps, in four passes each."""
    return _to_floor(130, 60, passes=4)


@SCENARIOS.silent(ScheduleEndedEarly)
def training_without_a_declared_end() -> Stream:
    """As long again at the floor, on purpose."""
    return _to_floor(50, 50, total=None, passes=4)


@SCENARIOS.silent(ScheduleEndedEarly)
def decay_by_milestones() -> Stream:
    """A tenth after half of the declared steps, with two processes."""
    stream = Stream(["a"], contract=Contract(total_steps=100), world_size=2)
    stream.optimizers([["a"]])
    for step in range(90):
        stream.step(values={"*": 1.0}, lr=1e-3 if step < 50 else 1e-4)
    return stream


@SCENARIOS.silent(ScheduleEndedEarly)
def warm_up_and_a_constant() -> Stream:
    """What rose to where it is has not ended."""
    return _run([*_warm_up(50), *([1e-3] * 50)], total_steps=200)


def _warm_up(steps: int, peak: float = 1e-3) -> list[float]:
    return [peak * (step + 1) / steps for step in range(steps)]


@SCENARIOS.fires(
    LearningRateJump, Severity.INFO, subject="a", first_step=41, says="never been above"
)
def scaled_once_more_in_the_middle() -> Stream:
    """By the number of processes, after a warm-up and a piece of the decay."""
    return _run([*_warm_up(10), *_decay(30), *([8e-3] * 10)])


@SCENARIOS.fires(LearningRateJump, Severity.INFO, subject="b", first_step=31)
def warm_up_that_ends_with_its_epoch() -> Stream:
    """One group is at a sixth of its peak, and there all at once."""
    return _run([(1e-3, rate) for rate in [*_warm_up(180)[:30], *([1e-3] * 10)]])


@SCENARIOS.silent(LearningRateJump)
def warm_up_from_next_to_nothing() -> Stream:
    """The second step is at ten thousand times the first; then a line, and a cosine."""
    return _run([1e-9, *_warm_up(100), *_cosine(40, 40)])


@SCENARIOS.silent(LearningRateJump)
def constant_warm_up() -> Stream:
    """A tenth of the rate, then all of it."""
    return _run([1e-4] * 50 + [1e-3] * 50)


@SCENARIOS.silent(LearningRateJump)
def cycles_that_grow() -> Stream:
    """To twice the first one's peak, and then to ten times."""
    return _run([rate * scale for scale in (1, 2, 10) for rate in _cosine(40, 40)])


@SCENARIOS.silent(LearningRateJump)
def warm_up_that_is_seldom_looked_at() -> Stream:
    """Ninety of its steps are not."""
    stream = _run([1e-5 * (step + 1) for step in range(10)])
    stream.step(values={"*": 1.0}, steps=90)
    stream.step(values={"*": 1.0}, lr=1.01e-3)
    return stream


@SCENARIOS.silent(LearningRateJump)
def a_rest_and_the_same_rate_again() -> Stream:
    """Frozen for a while."""
    return _run([*([1e-3] * 20), *([1e-5] * 20), *([1e-3] * 20)])


@SCENARIOS.silent(LearningRateJump)
def group_that_is_taken_in_later() -> Stream:
    """At zero until the others are warm."""
    return _run([(1e-3, 0.0)] * 20 + [(1e-3, 5e-4)] * 20)
