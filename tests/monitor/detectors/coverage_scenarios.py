"""
Runs for parameter-not-in-optimizer, optimizer-holds-dead-parameter and gradient-missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.frame import ForeignParameter
from trainvitals_monitor.detectors.gradient_missing import GradientMissing
from trainvitals_monitor.detectors.optimizer_holds_dead_parameter import OptimizerHoldsDeadParameter
from trainvitals_monitor.detectors.parameter_not_in_optimizer import ParameterNotInOptimizer
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
BOTH = (ParameterNotInOptimizer, OptimizerHoldsDeadParameter)


def _dead(shape: list[int], *, has_gradient: bool = False) -> ForeignParameter:
    return ForeignParameter(group=0, shape=shape, dtype="float32", has_gradient=has_gradient)


def _run(
    held: list[str], count: int = 12, *, grad: float = 1.0, update: Any = None, **seen: Any
) -> Stream:
    """A body of 64 elements and a head of 8; `held` are in the optimizer, the others do not move."""
    stream = Stream([tensor("body"), tensor("head", shape=[8])])
    stream.optimizers([held], **seen)
    moved = {fqn: 0.1 if fqn in held else 0.0 for fqn in ("body", "head")}
    for step in range(count):
        gradients = {"*": grad * (1.0 + step % 3 / 10)}
        stream.step(values={"*": 1.0}, gradients=gradients, updates=update or moved, lr=1e-3)
    return stream


@SCENARIOS.fires(
    ParameterNotInOptimizer, Severity.WARNING, subject="head", first_step=1, says="no optimizer"
)
def head_left_out() -> Stream:
    """The smaller part has gradients and no optimizer."""
    return _run(["body"])


@SCENARIOS.fires(ParameterNotInOptimizer, Severity.WARNING, subject="body")
def unfrozen_and_left_out() -> Stream:
    """The larger part is made trainable after some steps of training a head, and put into no optimizer."""
    stream = Stream([tensor("body", trainable=False), tensor("head", shape=[8])])
    stream.optimizers([["head"]])
    moved = {"body": 0.0, "head": 0.1}
    stream.step(values={"*": 1.0}, gradients={"head": 1.0}, updates=moved, lr=1e-3, steps=5)
    stream.slot("body", "trainable")
    stream.retensor("body", trainable=True)
    for step in range(12):
        gradients = {"*": 1.0 + step % 3 / 10}
        stream.step(values={"*": 1.0}, gradients=gradients, updates=moved, lr=1e-3)
    return stream


@SCENARIOS.fires(ParameterNotInOptimizer, Severity.WARNING, subject="head")
def trained_in_turn_and_left_out() -> Stream:
    """The head is made trainable for every other step; of that the first changes are told, and the last said: frozen."""
    stream = Stream([tensor("body"), tensor("head", shape=[8])])
    stream.optimizers([["body"]])
    moved = {"body": 0.1, "head": 0.0}
    for step in range(24):
        if step < 3:
            stream.slot("head", "trainable")
            stream.retensor("head", trainable=step % 2 == 1)
        gradients = {"body": 1.0 + step % 3, **({"head": 1.0 + step % 3} if step % 2 else {})}
        stream.step(values={"*": 1.0}, gradients=gradients, updates=moved, lr=1e-3)
    return stream


@SCENARIOS.silent(ParameterNotInOptimizer)
def gradient_left_from_before() -> Stream:
    """The head of a pre-trained model is not called; its last gradient stays, and clipping scales it down."""
    stream = Stream([tensor("body"), tensor("head", shape=[8])])
    stream.optimizers([["body"]])
    for step in range(30):
        gradients = {"body": 1.0 + step % 3, "head": 0.9 ** max(step - 10, 0)}
        moved = {"body": 0.1, "head": 0.0}
        stream.step(values={"*": 1.0}, gradients=gradients, updates=moved, lr=1e-3)
    return stream


@SCENARIOS.silent(ParameterNotInOptimizer)
def only_the_head_is_trained() -> Stream:
    """Most of the model is outside: that was meant."""
    return _run(["head"])


@SCENARIOS.silent(*BOTH)
def all_held() -> Stream:
    """Nothing is left out."""
    return _run(["body", "head"])


@SCENARIOS.silent(*BOTH)
def optimizer_that_comes_later() -> Stream:
    """The second player of a GAN steps for the first time in step 4."""
    stream = _run(["body"], 3)
    stream.optimizers([["body"], ["head"]], names=("Adam", "Adam"), group_optimizer=[0, 1])
    stream.step(values={"*": 1.0}, gradients={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=10)
    return stream


@SCENARIOS.silent(*BOTH)
def updated_by_hand() -> Stream:
    """What no optimizer holds moves all the same."""
    return _run(["body"], update={"*": 0.1})


@SCENARIOS.silent(*BOTH)
def gradients_that_are_zero() -> Stream:
    """An unused part."""
    return _run(["body"], grad=0.0)


@SCENARIOS.silent(*BOTH)
def optimizers_unknown() -> Stream:
    """No optimizer was seen: no data."""
    stream = Stream(["a", "b"])
    stream.step(values={"*": 1.0}, gradients={"*": 1.0}, updates={"*": 0.0}, steps=12)
    return stream


@SCENARIOS.fires(
    OptimizerHoldsDeadParameter, Severity.CRITICAL, subject="head", first_step=1, says="[8]"
)
def module_swapped_after_the_optimizer() -> Stream:
    """A dead parameter of the very shape of one that is left out."""
    return _run(["body"], foreign=[_dead([8])])


@SCENARIOS.fires(OptimizerHoldsDeadParameter, Severity.CRITICAL, subject="body")
def nothing_of_the_model_is_held() -> Stream:
    """The model was wrapped after the optimizer: shapes differ, all are dead."""
    return _run([], foreign=[_dead([7]), _dead([9])])


def _drawn_anew(
    *,
    update: float = 0.0,
    shape: tuple[int, ...] = (8,),
    foreign: Sequence[ForeignParameter] = (),
) -> Stream:
    """
    A head that the optimizer held; then it holds a parameter of this shape in its place, with a gradient. `foreign`: what
    it held of others all along.
    """
    stream = _run(["body", "head"], 12, foreign=foreign)
    stream.optimizers([["body"]], foreign=[*foreign, _dead(list(shape), has_gradient=True)])
    moved = {"body": 0.1, "head": update}
    stream.step(values={"*": 1.0}, gradients={"*": 1.0}, updates=moved, lr=1e-3, steps=12)
    return stream


@SCENARIOS.fires(OptimizerHoldsDeadParameter, Severity.CRITICAL, subject="head", first_step=13)
def head_drawn_anew_with_the_old_gradient_left() -> Stream:
    """The optimizer steps the head of before, on the last gradient that it got."""
    return _drawn_anew()


@SCENARIOS.fires(OptimizerHoldsDeadParameter, Severity.CRITICAL, says="holds 1 parameters")
def head_drawn_anew_beside_a_second_model_of_its_shape() -> Stream:
    """That one is not counted."""
    return _drawn_anew(foreign=[_dead([8], has_gradient=True)])


@SCENARIOS.fires(OptimizerHoldsDeadParameter, Severity.CRITICAL, subject="head", first_step=13)
def head_drawn_anew_beside_a_second_model_without_gradients() -> Stream:
    """What explains nothing does not hide what explains it."""
    return _drawn_anew(foreign=[_dead([5])])


@SCENARIOS.silent(OptimizerHoldsDeadParameter)
def head_drawn_anew_and_updated_by_hand() -> Stream:
    """It moves, whoever does it."""
    return _drawn_anew(update=0.1)


@SCENARIOS.silent(OptimizerHoldsDeadParameter)
def head_of_another_shape_and_a_second_model() -> Stream:
    """What came into the optimizer is none of what is missing in it."""
    return _drawn_anew(shape=(5,))


@SCENARIOS.silent(OptimizerHoldsDeadParameter)
def second_model_not_attached() -> Stream:
    """Foreign parameters with gradients are alive."""
    return _run(["body"], foreign=[_dead([8], has_gradient=True)])


@SCENARIOS.silent(OptimizerHoldsDeadParameter)
def dead_parameter_of_another_shape() -> Stream:
    """A leftover that nothing in the model is missing."""
    return _run(["body"], foreign=[_dead([5])])


def _gradients(
    head: list[float | None], held: tuple[str, ...] = ("body", "head"), **info: Any
) -> Stream:
    stream = Stream([tensor("body"), tensor("head", **info)])
    stream.optimizers([list(held)])
    for grad in head:
        stream.step(values={"*": 1.0}, gradients={"body": 1.0, "head": grad}, lr=1e-3)
    return stream


@SCENARIOS.silent(GradientMissing)
def tower_that_is_not_used() -> Stream:
    """Text alone is trained: the picture's tower is registered first, and ends in other features than an embedding's."""
    tower, embedding = (
        tensor("tower.out.weight", shape=[64, 128]),
        tensor("embed_tokens.weight", shape=[1000, 64]),
    )
    stream = Stream([tower, embedding, tensor("body.weight", shape=[64, 64])])
    stream.optimizers([[tower.fqn, embedding.fqn, "body.weight"]])
    stream.step(values={"*": 1.0}, gradients={tower.fqn: None, "*": 1.0}, lr=1e-3, steps=10)
    return stream


@SCENARIOS.fires(GradientMissing, Severity.WARNING, subject="rnn.weight_ih_l0", first_step=1)
def recurrent_front_that_is_cut_off() -> Stream:
    """A GRU of 32 features, whose matrices have the rows of three gates, before a linear layer."""
    rnn = [tensor("rnn.weight_ih_l0", shape=[96, 16]), tensor("rnn.weight_hh_l0", shape=[96, 32])]
    names = [one.fqn for one in rnn]
    stream = Stream([*rnn, tensor("head.weight", shape=[4, 32])])
    stream.optimizers([[*names, "head.weight"]])
    gradients = {**dict.fromkeys(names), "*": 1.0}
    stream.step(values={"*": 1.0}, gradients=gradients, lr=1e-3, steps=10)
    return stream


@SCENARIOS.fires(GradientMissing, Severity.WARNING, subject="front", first_step=1, says="8 looks")
def detached() -> Stream:
    """Backward never reaches the front."""
    stream = Stream(["front", "head"])
    stream.optimizers([["front", "head"]])
    stream.step(values={"*": 1.0}, gradients={"front": None, "head": 1.0}, lr=1e-3, steps=10)
    return stream


@SCENARIOS.silent(GradientMissing)
def head_used_now_and_then() -> Stream:
    """One gradient in five steps is enough to be alive."""
    return _gradients([None, None, 1.0, None, None] + [None] * 20)


@SCENARIOS.silent(GradientMissing)
def gradient_of_zero() -> Stream:
    """Present and zero is not missing."""
    return _gradients([0.0] * 12)


@SCENARIOS.silent(GradientMissing)
def frozen_head() -> Stream:
    """What requires no gradient has none."""
    return _gradients([None] * 12, trainable=False)


@SCENARIOS.silent(GradientMissing)
def no_gradients_anywhere() -> Stream:
    """Where none is ever seen (main_grad, optimizer in backward), nothing can be said."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    stream.step(values={"*": 1.0}, gradients={"*": None}, lr=1e-3, steps=12)
    return stream
