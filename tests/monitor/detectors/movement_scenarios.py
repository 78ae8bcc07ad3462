"""
Runs for updates-lost, parameter-stuck, frozen-parameter-moved and base-weights-moved.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.contract import Contract
from trainvitals_monitor.detectors.base_weights_moved import BaseWeightsMoved
from trainvitals_monitor.detectors.counter_stuck import CounterStuck
from trainvitals_monitor.detectors.frozen_parameter_moved import FrozenParameterMoved
from trainvitals_monitor.detectors.parameter_stuck import ParameterStuck
from trainvitals_monitor.detectors.updates_lost import UpdatesLost
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
STILL = {"update_norm": 0.0, "changed": 0, "lost": 64}
SPARE = {"changed": 0, "with_gradient": 0, "lost": 0}


def _low_precision(**optimizers: Any) -> Stream:
    """A bfloat16 weight and, of a hundredth of its size, a norm at 1, both stepped."""
    stream = Stream(
        [tensor("w", dtype="bfloat16", shape=[6400]), tensor("norm.weight", dtype="bfloat16")]
    )
    stream.optimizers([["w", "norm.weight"]], **optimizers)
    return stream


def _steps(stream: Stream, update: dict[str, Any], count: int, lr: Any = 1e-5) -> Stream:
    update = {"looked": 64, "with_gradient": 64, **update}
    for number in range(count):
        stream.step(
            values={"*": 8.0},
            gradients={"*": 1.0},
            updates={"w": update, "norm.weight": STILL},
            lr=lr(number) if callable(lr) else lr,
        )
    return stream


# 8 of 64 elements move, by a tenth of an ulp of a typical weight: only the small ones can.
ROUNDED = {"update_norm": 8 * 0.35 * 0.0004, "changed": 8, "lost": 56}
# As many move, each by a whole ulp.
CARRIED = {"update_norm": 8 * 0.35 * 0.0039, "changed": 8, "lost": 56}


@SCENARIOS.fires(UpdatesLost, Severity.WARNING, subject="w", first_step=1, says="bfloat16")
def bfloat16_at_a_small_learning_rate() -> Stream:
    """Seven of eight elements do not move."""
    return _steps(_low_precision(), ROUNDED, 12)


@SCENARIOS.fires(UpdatesLost, Severity.WARNING, subject="w", first_step=1, says="100 %")
def bfloat16_at_a_far_too_small_learning_rate() -> Stream:
    """Nothing moves at all: that is told after a few looks."""
    return _steps(_low_precision(), STILL, 12)


@SCENARIOS.fires(UpdatesLost, Severity.WARNING, subject="w", first_step=1, says="97 %")
def bfloat16_in_which_hardly_anything_moves() -> Stream:
    """Two of 64 elements: too few to say by how much they move, and stochastic rounding would move more."""
    few = {"update_norm": 2 * 0.35 * 0.0004, "changed": 2, "lost": 62}
    return _steps(_low_precision(), few, 12)


@SCENARIOS.fires(UpdatesLost, Severity.WARNING, subject="norm.weight", says="100 %")
def norm_that_never_moves() -> Stream:
    """The weights move well, the norm at 1.0 not once in 64 steps."""
    moving = {"update_norm": 0.1, "changed": 60, "lost": 4}
    return _steps(_low_precision(), moving, 70)


@SCENARIOS.silent(UpdatesLost)
def stochastic_rounding() -> Stream:
    """What moves, moves by whole ulps: the rest is carried over."""
    return _steps(_low_precision(), CARRIED, 80)


@SCENARIOS.silent(UpdatesLost)
def rounding_that_nothing_tells_of() -> Stream:
    """Two of five elements move: by an ulp and by chance, or because they are small; both look the same."""
    return _steps(_low_precision(), {"update_norm": 0.02, "changed": 26, "lost": 38}, 40)


@SCENARIOS.silent(UpdatesLost)
def float32_masters() -> Stream:
    """The optimizer's own copies have the precision."""
    return _steps(_low_precision(masters=True), ROUNDED, 20)


@SCENARIOS.silent(UpdatesLost)
def what_rounding_took_is_kept() -> Stream:
    """Kahan summation, or a master in the state of each parameter."""
    return _steps(_low_precision(carries=True), ROUNDED, 80)


@SCENARIOS.silent(UpdatesLost)
def warm_up_from_zero() -> Stream:
    """A learning rate that still rises says nothing about what is to come."""
    return _steps(_low_precision(), ROUNDED, 30, lr=lambda step: 1e-7 * (step + 1))


@SCENARIOS.silent(UpdatesLost)
def end_of_a_decay_to_zero() -> Stream:
    """Updates vanish when the learning rate does."""
    stream = _low_precision()
    _steps(stream, {"update_norm": 0.1, "changed": 64, "lost": 0}, 10, lr=1e-3)
    return _steps(stream, ROUNDED, 6, lr=1e-5)


@SCENARIOS.silent(UpdatesLost)
def healthy_bfloat16_with_a_slow_norm() -> Stream:
    """A norm that stands still for some steps while the model moves."""
    moving = {"update_norm": 0.1, "changed": 60, "lost": 4}
    return _steps(_low_precision(), moving, 30)


def _two_weights(*, names: tuple[str, ...] = ("AdamW",)) -> Stream:
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]], names=names)
    return stream


def _stuck(
    stream: Stream, count: int, *, grad: float | None = 1.0, lr: float = 1e-3, **update: Any
) -> Stream:
    for _ in range(count):
        stream.step(
            values={"*": 4.0},
            gradients={"a": grad, "b": 1.0},
            updates={"a": {**STILL, **update}, "b": 0.1},
            lr=lr,
        )
    return stream


@SCENARIOS.fires(ParameterStuck, Severity.WARNING, subject="a", first_step=1, says="8 steps")
def held_with_a_gradient_and_still() -> Stream:
    """The optimizer steps a copy of it."""
    return _stuck(_two_weights(), 10)


@SCENARIOS.fires(ParameterStuck, Severity.WARNING, subject="a", first_step=3)
def stuck_after_two_good_steps() -> Stream:
    """The first wrong step is the one after the last movement."""
    stream = _two_weights(names=("SGD",))
    stream.step(values={"*": 4.0}, gradients={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=2)
    return _stuck(stream, 9)


@SCENARIOS.silent(ParameterStuck)
def clamped_at_a_bound() -> Stream:
    """The critic of a WGAN: each element is at one end or the other, and is put back after each step."""
    stream = _two_weights()
    ends = {"*": (-0.5, 0.5)}  # the norm of 64 elements of one half is 4
    stream.step(values={"*": 4.0}, gradients={"*": 1.0}, extremes=ends, updates={"*": 0.1}, lr=1e-3)
    return _stuck(stream, 12)


@SCENARIOS.silent(ParameterStuck)
def learning_rate_zero() -> Stream:
    """Nothing moves at a learning rate of 0."""
    return _stuck(_two_weights(), 12, lr=0.0)


@SCENARIOS.silent(ParameterStuck)
def no_gradient_in_the_elements_looked_at() -> Stream:
    """Rows of a sparse embedding that no batch uses."""
    return _stuck(_two_weights(), 12, **SPARE)


@SCENARIOS.silent(ParameterStuck)
def gradient_of_rounding_noise() -> Stream:
    """A bias in front of a normalisation: its gradient is zero but for rounding."""
    return _stuck(_two_weights(names=("SGD",)), 12, grad=1e-7)


@SCENARIOS.silent(ParameterStuck)
def plain_step_below_one_ulp() -> Stream:
    """SGD's step is smaller than float32 can add."""
    return _stuck(_two_weights(names=("SGD",)), 12, lr=1e-7)


@SCENARIOS.silent(ParameterStuck)
def adam_at_the_end_of_a_decay_to_zero() -> Stream:
    """A step of the learning rate's size, 1e-9, is nothing to weights of a half."""
    return _stuck(_two_weights(), 12, lr=1e-9)


@SCENARIOS.silent(ParameterStuck)
def relative_step_below_one_ulp() -> Stream:
    """LAMB's learning rate is a share of the weight: 1e-7 of it is less than float32 can add."""
    return _stuck(_two_weights(names=("Lamb",)), 12, lr=1e-7)


@SCENARIOS.fires(ParameterStuck, Severity.WARNING, subject="a", first_step=1)
def still_at_a_small_learning_rate() -> Stream:
    """Adam's 1e-5 is a hundred ulps of weights of a half: something holds them."""
    return _stuck(_two_weights(), 10, lr=1e-5)


@SCENARIOS.silent(ParameterStuck)
def player_of_a_gan_that_waits() -> Stream:
    """Its gradient is there, its optimizer has not stepped (since 0)."""
    return _stuck(_two_weights(), 12, since=0)


@SCENARIOS.silent(ParameterStuck)
def quasi_newton_that_is_satisfied() -> Stream:
    """L-BFGS takes no step where the gradient is small enough to it: all weights stand still together."""
    stream = _two_weights(names=("LBFGS",))
    step: dict[str, Any] = {"values": {"*": 8.0}, "gradients": {"*": 1e-3}, "lr": 0.5}
    stream.step(updates={"*": 0.1}, **step)
    for _ in range(20):
        stream.step(updates={"*": STILL}, **step)
    return stream


@SCENARIOS.fires(ParameterStuck, Severity.WARNING, subject="a")
def one_weight_that_a_quasi_newton_step_leaves() -> Stream:
    """L-BFGS moves all weights along one direction: one that stays is held by something else."""
    return _stuck(_two_weights(names=("LBFGS",)), 12)


def _with_adapter(**contract: Any) -> Stream:
    stream = Stream(
        [
            tensor("wq.base_layer.weight", trainable=False),
            tensor("wq.lora_A.default.weight", shape=[4, 16]),
            tensor("wq.lora_B.default.weight", shape=[16, 4]),
            tensor("teacher.weight", trainable=False),
        ],
        contract=Contract(**contract),
    )
    stream.optimizers([["wq.lora_A.default.weight", "wq.lora_B.default.weight"]])
    return stream


def _moving(stream: Stream, fqn: str, moves: int, update: float, still: int = 2) -> Stream:
    for number in range(still + moves):
        moved = update if number >= still else 0.0
        stream.step(values={"*": 8.0}, updates={fqn: moved, "wq.lora_B.default.weight": 0.1})
    return stream


@SCENARIOS.fires(FrozenParameterMoved, Severity.CRITICAL, subject="teacher.weight", first_step=3)
def declared_frozen_and_moved() -> Stream:
    """One change of what was declared is one too many."""
    return _moving(_with_adapter(frozen=["teacher.*"]), "teacher.weight", 1, 1e-6)


@SCENARIOS.fires(BaseWeightsMoved, Severity.CRITICAL, subject="wq.weight", says="LoRA")
def base_of_an_adapter_moves() -> Stream:
    """The frozen base is trained along."""
    return _moving(_with_adapter(), "wq.weight", 4, 0.01)


def _merged_now_and_then(b_after: float) -> Stream:
    """Every twentieth step the base takes the adapter over; B, of a norm of 2, has this one afterwards."""
    stream = _with_adapter()
    for step in range(1, 90):
        is_merged = step % 20 == 0
        stream.step(
            values={"*": 8.0, "wq.lora_B.default.weight": b_after if is_merged else 2.0},
            updates={"wq.weight": 0.5 if is_merged else 0.0, "wq.lora_B.default.weight": 0.1},
        )
    return stream


@SCENARIOS.fires(BaseWeightsMoved, Severity.CRITICAL, subject="wq.weight", first_step=20)
def adapter_merged_at_each_evaluation() -> Stream:
    """It is added to the base, and goes on as it was."""
    return _merged_now_and_then(b_after=2.1)


@SCENARIOS.silent(BaseWeightsMoved)
def adapter_merged_and_begun_anew() -> Stream:
    """ReLoRA: after each merge B is zero, but for the step since."""
    return _merged_now_and_then(b_after=0.05)


@SCENARIOS.silent(BaseWeightsMoved)
def adapter_begun_anew_between_looks_at_the_base() -> Stream:
    """ReLoRA: whenever the base is looked at again, some steps after a merge, B has grown for a while."""
    return _base_seen_seldom(lambda step: 0.05 + 0.05 * (step % 40))


@SCENARIOS.fires(BaseWeightsMoved, Severity.CRITICAL, subject="wq.weight")
def adapter_that_goes_on_between_looks_at_the_base() -> Stream:
    """The same moves, and B is there at each step in between."""
    return _base_seen_seldom(lambda step: 0.05 + 0.01 * step)


def _base_seen_seldom(norm_of_b: Callable[[int], float]) -> Stream:
    """The base is looked at in every fortieth step, and has moved each time; B in each."""
    stream = _with_adapter()
    for step in range(1, 180):
        b = {"wq.lora_B.default.weight": 0.1}
        stream.step(
            values={"*": 8.0, "wq.lora_B.default.weight": norm_of_b(step)},
            updates={**b, "wq.weight": {"update_norm": 0.5, "since": 40}} if step % 40 == 20 else b,
        )
    return stream


@SCENARIOS.silent(BaseWeightsMoved)
def base_that_is_loaded_again() -> Stream:
    """Each move is that of a load."""
    stream = _with_adapter()
    for _ in range(4):
        stream.checkpoint("load")
        stream.step(values={"*": 8.0}, updates={"wq.weight": 0.5, "wq.lora_B.default.weight": 0.1})
    return stream


def _frozen_and_held(norms: list[float], update: float | None = None, **info: Any) -> Stream:
    """A frozen parameter in an optimizer with lr x weight decay of 0.001, beside a trained one."""
    stream = Stream([tensor("backbone.w", trainable=False, **info), "head.w"])
    stream.optimizers([["backbone.w", "head.w"]])
    stream.step(values={"*": norms[0]}, updates={"*": 0.0}, lr=0.01, weight_decay=0.1)
    for before, now in pairwise(norms):
        moved = abs(before - now) if update is None else update
        stream.step(
            values={"backbone.w": now, "head.w": 8.0},
            updates={"backbone.w": moved, "head.w": 0.1},
        )
    return stream


@SCENARIOS.fires(
    FrozenParameterMoved, Severity.WARNING, subject="backbone.w", says="decay", first_step=2
)
def frozen_and_decayed() -> Stream:
    """No gradient, and a thousandth less at every step."""
    return _frozen_and_held([8.0 * 0.999**step for step in range(12)])


@SCENARIOS.fires(FrozenParameterMoved, Severity.WARNING, subject="backbone.w", says="decay")
def frozen_and_decayed_where_most_steps_rest() -> Stream:
    """One look in each ten steps, and ten thousandths less."""
    stream = _frozen_and_held([8.0, 8.0])
    norms = [8.0 * 0.999 ** (10 * look) for look in range(14)]
    for before, now in pairwise(norms):
        stream.step(steps=9)
        moved = {"update_norm": before - now, "since": 10}
        stream.step(values={"backbone.w": now, "head.w": 8.0}, updates={"backbone.w": moved})
    return stream


@SCENARIOS.fires(
    FrozenParameterMoved, Severity.WARNING, subject="backbone.w", says="decay", first_step=32
)
def decayed_after_a_long_rest() -> Stream:
    """Not a word of the thirty steps at which it stood still."""
    return _frozen_and_held([8.0] * 30 + [8.0 * 0.999**step for step in range(12)])


@SCENARIOS.silent(FrozenParameterMoved)
def decayed_once_after_a_long_rest() -> Stream:
    """Standing still is not going straight."""
    return _frozen_and_held([8.0] * 30 + [8.0 * 0.999])


@SCENARIOS.silent(FrozenParameterMoved)
def key_encoder_in_the_optimizer() -> Stream:
    """It follows by as much as the decay would be, in its own direction."""
    return _frozen_and_held([8.0 + 0.001 * (step % 2) for step in range(20)], update=0.008)


@SCENARIOS.silent(FrozenParameterMoved)
def average_that_shrinks_with_its_source() -> Stream:
    """Straight towards zero, at another pace than the decay's."""
    return _frozen_and_held([8.0 * 0.99**step for step in range(20)])


@SCENARIOS.silent(FrozenParameterMoved, BaseWeightsMoved)
def exponential_moving_average() -> Stream:
    """A teacher that follows at every step."""
    return _moving(_with_adapter(), "teacher.weight", 20, 0.01, still=0)


@SCENARIOS.silent(FrozenParameterMoved, BaseWeightsMoved)
def adapter_merged_and_taken_out_again() -> Stream:
    """What is left in the base is rounding."""
    return _moving(_with_adapter(), "wq.weight", 10, 8.0 * 2**-23)


@SCENARIOS.silent(FrozenParameterMoved, BaseWeightsMoved)
def adapter_merged_by_design() -> Stream:
    """ReLoRA: the base takes the adapter over once in many steps."""
    return _moving(_with_adapter(), "wq.weight", 1, 0.5, still=20)


@SCENARIOS.silent(FrozenParameterMoved)
def declared_frozen_and_loaded() -> Stream:
    """A load may change it."""
    stream = _with_adapter(frozen=["teacher.*"])
    stream.step(values={"*": 8.0}, updates={"*": 0.0})
    stream.checkpoint("load")
    stream.step(values={"*": 8.0}, updates={"teacher.weight": 3.0})
    return stream


def _counter(dtype: str, counts: list[float]) -> Stream:
    """A buffer that counts, beside a weight."""
    stream = Stream(["w", tensor("seen", kind="buffer", shape=[1], dtype=dtype)])
    for count in counts:
        stream.step(values={"*": 1.0}, extremes={"seen": (count, count)})
    return stream


@SCENARIOS.fires(CounterStuck, Severity.WARNING, first_step=56, subject="seen", says="256")
def counter_of_a_model_in_bfloat16() -> Stream:
    """It was cast with the model."""
    return _counter("bfloat16", [min(count, 256) for count in range(201, 280)])


@SCENARIOS.silent(CounterStuck)
def counter_in_float32() -> Stream:
    """256 is a number like others."""
    return _counter("float32", [float(count) for count in range(201, 280)])


@SCENARIOS.silent(CounterStuck)
def counter_that_is_cleared() -> Stream:
    """It ends at 256 and begins again."""
    return _counter("bfloat16", [float(count % 257) for count in range(200, 600)])


@SCENARIOS.silent(CounterStuck)
def constant_of_256() -> Stream:
    """A size, kept as a buffer."""
    return _counter("bfloat16", [256.0] * 60)
