"""
Runs for non-finite, norm-explosion, loss-non-finite, loss-spike and loss-at-chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.facts import BACKWARD_SCALAR
from trainvitals_monitor.detectors.loss_at_chance import LossAtChance
from trainvitals_monitor.detectors.loss_non_finite import LossNonFinite
from trainvitals_monitor.detectors.loss_spike import LossSpike
from trainvitals_monitor.detectors.non_finite import NonFinite
from trainvitals_monitor.detectors.norm_explosion import NormExplosion
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
MASK = "attention.mask"


def _counts(parameter: list[int], mask: list[int]) -> Stream:
    """Non-finite elements of a parameter and of a persistent buffer, step by step."""
    stream = Stream(["w", tensor(MASK, kind="buffer")])
    for of_parameter, of_mask in zip(parameter, mask, strict=True):
        stream.step(
            values={
                "w": {"norm": math.nan if of_parameter else 1.0, "nonfinite": of_parameter},
                MASK: {"norm": math.inf, "nonfinite": of_mask},
            }
        )
    return stream


@SCENARIOS.fires(
    NonFinite, Severity.CRITICAL, subject="w", first_step=3, says="3 NaN or infinite elements of 64"
)
def nan_in_unused_rows() -> Stream:
    """Three elements break in step 3."""
    return _counts([0, 0, 3, 3], [0, 0, 0, 0])


@SCENARIOS.fires(NonFinite, Severity.CRITICAL, subject="w", first_step=1)
def nan_from_the_first_step_on() -> Stream:
    """A trained parameter has no mask by design."""
    return _counts([64, 64], [0, 0])


@SCENARIOS.fires(NonFinite, Severity.CRITICAL, subject=MASK, first_step=3)
def buffer_that_breaks_later() -> Stream:
    """A running statistic, say."""
    return _counts([0] * 4, [0, 0, 5, 6])


@SCENARIOS.silent(NonFinite)
def mask_of_minus_infinity() -> Stream:
    """The same number from the first look on."""
    return _counts([0] * 70, [28] * 70)


@SCENARIOS.silent(NonFinite, LossNonFinite)
def gradients_that_overflow() -> Stream:
    """A gradient scaler's business."""
    stream = Stream(["w"])
    stream.step(values={"*": 1.0}, gradients={"w": math.inf}, loss=1.0, steps=4)
    return stream


def _norms(values: Iterable[float]) -> Stream:
    stream = Stream(["w"])
    for norm in values:
        stream.step(values={"w": norm})
    return stream


@SCENARIOS.fires(NormExplosion, Severity.WARNING, subject="w", says="faster and faster")
def doubling_every_seven_steps() -> Stream:
    """A straight line in the logarithm."""
    return _norms(4.0 * 1.1**step for step in range(40))


@SCENARIOS.fires(NormExplosion, Severity.CRITICAL, subject="w", says="jump")
def thousandfold_within_a_few_steps() -> Stream:
    """Divergence."""
    return _norms([4.0] * 10 + [40.0, 400.0, 4e4])


@SCENARIOS.silent(NormExplosion)
def growth_from_zero() -> Stream:
    """Steps of one size from zero: fast at first, ever more slowly in the logarithm."""
    return _norms(16.0 * step for step in range(60))


@SCENARIOS.silent(NormExplosion)
def growth_from_zero_in_a_warm_up() -> Stream:
    """Steps that grow themselves: quadratic, which bends down all the same."""
    return _norms(0.5 * step * step for step in range(60))


@SCENARIOS.silent(NormExplosion)
def exponential_escape_from_a_tiny_start() -> Stream:
    """Small initialisation: growth by a factor, to ordinary sizes only."""
    return _norms(min(1e-3 * 1.15**step, 4.0) for step in range(80))


@SCENARIOS.silent(NormExplosion)
def weights_loaded_in_the_middle() -> Stream:
    """Another model's norms."""
    stream = _norms([0.004] * 8)
    stream.checkpoint("load")
    stream.step(values={"w": 40.0}, steps=8)
    return stream


def _losses(*values: float, name: str = "loss") -> Stream:
    stream = Stream(["w"])
    for value in values:
        stream.step(values={"w": 1.0}, scalars={name: value})
    return stream


@SCENARIOS.fires(LossNonFinite, Severity.WARNING, first_step=3, says="loss is nan")
def one_nan() -> Stream:
    """One bad batch."""
    return _losses(2.0, 1.9, math.nan, 1.8)


def _left_out(*, times: int = 1, **look: Any) -> Stream:
    """A loss that is not a number at some steps, and what was looked at in these."""
    stream = Stream(["w"])
    stream.optimizers([["w"]])
    usual: dict[str, Any] = {"values": {"w": 1.0}, "gradients": {"w": 1.0}}
    stream.step(**usual, scalars={"loss": 2.0, BACKWARD_SCALAR: 2.0}, steps=4)
    scalars = {"loss": math.nan, **look.pop("scalars", {})}
    stream.step(**look, scalars=scalars, steps=times)
    stream.step(**usual, scalars={"loss": 2.0, BACKWARD_SCALAR: 2.0}, steps=4)
    return stream


@SCENARIOS.fires(LossNonFinite, Severity.INFO, first_step=5)
def nan_without_a_gradient() -> Stream:
    """The trainer went on with the next batch, and stepped nothing."""
    return _left_out(values={"w": 1.0}, gradients={"w": {"grad_norm": 0.0, "grad_missing": 1}})


@SCENARIOS.fires(LossNonFinite, Severity.INFO, first_step=5)
def nan_that_backward_was_not_called_of() -> Stream:
    """Another microbatch's gradient was taken."""
    return _left_out(values={"w": 1.0}, gradients={"w": 1.0}, scalars={BACKWARD_SCALAR: 2.0})


@SCENARIOS.fires(LossNonFinite, Severity.INFO, first_step=5)
def nan_at_a_step_that_was_not_looked_at() -> Stream:
    """Nothing is known of its gradients."""
    return _left_out()


@SCENARIOS.fires(LossNonFinite, Severity.WARNING, first_step=5)
def nan_that_backward_was_called_of() -> Stream:
    """What it did to the gradients, something else has kept from the weights."""
    return _left_out(values={"w": 1.0}, gradients={"w": 1.0}, scalars={BACKWARD_SCALAR: math.nan})


@SCENARIOS.fires(LossNonFinite, Severity.CRITICAL, first_step=5)
def nan_in_all_gradients() -> Stream:
    """Another loss of the step was finite, and backward() of this one was given a gradient: it was not seen."""
    nan = {"w": math.nan}
    return _left_out(times=3, values=nan, gradients=nan, scalars={BACKWARD_SCALAR: 2.0})


@SCENARIOS.fires(LossNonFinite, Severity.WARNING, first_step=5)
def nan_in_all_weights() -> Stream:
    """Gradients were not looked at in this step."""
    return _left_out(values={"w": math.nan})


@SCENARIOS.fires(LossNonFinite, Severity.WARNING, first_step=5)
def nan_left_out_again_and_again() -> Stream:
    """Nothing is trained."""
    return _left_out(
        times=3, values={"w": 1.0}, gradients={"w": {"grad_norm": 0.0, "grad_missing": 1}}
    )


@SCENARIOS.fires(LossNonFinite, Severity.CRITICAL, first_step=2)
def infinite_again_and_again() -> Stream:
    """It does not heal."""
    return _losses(2.0, math.inf, math.inf, math.inf, name="train/loss")


@SCENARIOS.silent(LossNonFinite)
def infinite_loss_of_evaluation() -> Stream:
    """An early "best so far" is infinite by convention."""
    return _losses(math.inf, math.inf, 1.0, name="best_val_loss")


@SCENARIOS.silent(LossNonFinite)
def infinite_loss_scale() -> Stream:
    """No loss at all."""
    return _losses(math.inf, math.inf, name="loss_scale")


def _language_model(first: float, *, frozen: bool, loaded: bool) -> Stream:
    stream = Stream(
        [
            tensor("output.weight", shape=[512, 64], trainable=not frozen),
            tensor("wq.lora_A.default.weight", shape=[4, 64]),
        ]
    )
    if loaded:
        stream.checkpoint("load")
    for step in range(6):
        stream.step(values={"*": 1.0}, loss=first - 0.01 * step)
    return stream


@SCENARIOS.fires(
    LossAtChance, Severity.WARNING, subject="output.weight", first_step=1, says="ln(512)"
)
def adapters_on_a_random_base() -> Stream:
    """The head is frozen, and guesses."""
    return _language_model(6.24, frozen=True, loaded=False)


@SCENARIOS.fires(LossAtChance, Severity.WARNING, subject="output.weight", says="loaded")
def weights_wiped_after_loading() -> Stream:
    """All is trained, after a load."""
    return _language_model(6.25, frozen=False, loaded=True)


@SCENARIOS.silent(LossAtChance)
def training_from_scratch() -> Stream:
    """Every run from scratch starts there."""
    return _language_model(6.24, frozen=False, loaded=False)


@SCENARIOS.silent(LossAtChance)
def fine_tuning_a_good_base() -> Stream:
    """Far below chance."""
    return _language_model(3.1, frozen=True, loaded=True)


@SCENARIOS.silent(LossAtChance)
def fine_tuning_on_something_else() -> Stream:
    """Wrong with confidence is above chance."""
    return _language_model(7.4, frozen=True, loaded=True)


@SCENARIOS.silent(LossAtChance)
def new_head_on_a_loaded_body() -> Stream:
    """The head was not in the checkpoint: it starts at chance by right."""
    stream = Stream([tensor("body.weight", shape=[64, 64]), tensor("head.weight", shape=[10, 64])])
    stream.checkpoint("load", keys=["body.weight"])
    stream.step(values={"*": 1.0}, loss=math.log(10), steps=4)
    return stream


def _logged(losses: Iterable[float], name: str = "loss") -> Stream:
    stream = Stream(["w"])
    for loss in losses:
        stream.step(values={"w": 1.0}, scalars={name: loss})
    return stream


def _learning(count: int, floor: float = 2.0) -> list[float]:
    """A descent with noise of a few percent."""
    return [
        floor + 2.0 * 0.96**step + 0.1 * math.sin(7.0 * step) * math.cos(3.0 * step)
        for step in range(count)
    ]


@SCENARIOS.fires(LossSpike, Severity.INFO, first_step=121, says="loss has been at 7.2")
def loss_that_does_not_come_back() -> Stream:
    """From 2 to 8, and slowly down again."""
    return _logged([*_learning(120), *(8.0 - 0.2 * step for step in range(10))])


@SCENARIOS.silent(LossSpike)
def bad_batch() -> Stream:
    """Four values, and over."""
    return _logged([*_learning(120), 8.0, 7.0, 5.0, 4.0, *_learning(60)[30:]])


@SCENARIOS.silent(LossSpike)
def harder_data() -> Stream:
    """A third more of loss, for good."""
    return _logged([*_learning(120), *([2.7] * 60)])


@SCENARIOS.silent(LossSpike)
def plateau_of_a_full_batch() -> Stream:
    """Without any noise, and a tenth more of it when the data is augmented."""
    return _logged([*([2.0] * 100), *([2.2] * 30)])


@SCENARIOS.silent(LossSpike)
def tasks_in_turn() -> Stream:
    """Twenty steps of one, six of a harder one."""
    return _logged([8.0 if step % 26 >= 20 else 2.0 + 0.01 * (step % 3) for step in range(200)])


@SCENARIOS.silent(LossSpike)
def first_descent() -> Stream:
    """Up, before it comes down."""
    return _logged([2.0] * 10 + [9.0] * 40)


@SCENARIOS.silent(LossSpike)
def loss_of_the_validation() -> Stream:
    """Of other data."""
    return _logged([*_learning(120), *([8.0] * 20)], name="val_loss")
