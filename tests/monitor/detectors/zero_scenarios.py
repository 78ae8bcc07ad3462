"""
Runs for gradient-zero, and for what gradient-missing takes for a head that is not used.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.gradient_missing import GradientMissing
from trainvitals_monitor.detectors.gradient_zero import GradientZero
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()

TRUNK = tensor("trunk.weight", shape=[32, 16])
FIRST = tensor("first.weight", shape=[4, 32])
SECOND = tensor("second.weight", shape=[4, 32])


def _run(
    gradients: dict[str, float | None], steps: int = 14, *, moves: bool = True, loss: bool = True
) -> Stream:
    """A trunk under two heads; whoever has a gradient moves."""
    stream = Stream([TRUNK, FIRST, SECOND])
    stream.optimizers([[TRUNK.fqn, FIRST.fqn, SECOND.fqn]])
    moved = {fqn: 0.1 if grad and moves else 0.0 for fqn, grad in gradients.items()}
    for step in range(steps):
        logged: dict[str, Any] = {"loss": 1.0 + 0.1 * (step % 3)} if loss else {}
        stream.step(values={"*": 1.0}, gradients=gradients, updates=_rows(moved), lr=1e-3, **logged)
    return stream


def _rows(moved: dict[str, float]) -> dict[str, Any]:
    return {fqn: {"update_norm": size, "changed": 64 if size else 0} for fqn, size in moved.items()}


def _gradients(
    trunk: float | None, first: float | None, second: float | None
) -> dict[str, float | None]:
    return {TRUNK.fqn: trunk, FIRST.fqn: first, SECOND.fqn: second}


@SCENARIOS.fires(GradientZero, Severity.WARNING, subject=TRUNK.fqn, first_step=1, says="exactly")
def rounded_away() -> Stream:
    """What is before a rounding has a gradient of zero."""
    return _run(_gradients(0.0, 1.0, 1.0))


@SCENARIOS.fires(GradientZero, Severity.WARNING, first_step=1, says="no gradient at all")
def cleared_before_the_step() -> Stream:
    """`zero_grad` between the backward pass and the step: nothing has a gradient, nothing moves."""
    return _run(_gradients(None, None, None))


@SCENARIOS.fires(GradientZero, Severity.WARNING, says="no gradient at all")
def cleared_in_place_before_the_step() -> Stream:
    """The same with `set_to_none=False`."""
    return _run(_gradients(0.0, 0.0, 0.0))


@SCENARIOS.fires(GradientZero, Severity.INFO, subject=SECOND.fqn)
def last_head_multiplied_by_zero() -> Stream:
    """Nothing is behind it that could be fed by it."""
    return _run(_gradients(1.0, 1.0, 0.0))


@SCENARIOS.silent(GradientZero)
def first_head_multiplied_by_zero() -> Stream:
    """What is registered next takes something else."""
    return _run(_gradients(1.0, 0.0, 1.0))


@SCENARIOS.silent(GradientMissing)
def heads_that_are_not_used() -> Stream:
    """Neither feeds what is registered after it."""
    return _run(_gradients(1.0, None, 1.0))


@SCENARIOS.fires(GradientMissing, Severity.INFO, subject=SECOND.fqn)
def last_head_not_used() -> Stream:
    """It may begin later."""
    return _run(_gradients(1.0, 1.0, None))


@SCENARIOS.silent(GradientZero)
def loss_of_zero() -> Stream:
    """A margin that is kept has no gradient; what was logged says so."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    stream.step(gradients={"*": 0.0}, updates={"*": {"changed": 0}}, loss=0.0, steps=30)
    return stream


@SCENARIOS.silent(GradientZero)
def no_loss_known() -> Stream:
    """Rewards that are all alike: nothing to be said."""
    return _run(_gradients(0.0, 0.0, 0.0), loss=False)


@SCENARIOS.silent(GradientZero)
def optimizer_in_the_backward_pass() -> Stream:
    """No gradient is left when the step is seen, and everything moves."""
    stream = Stream(["a", "b"])
    stream.optimizers([["a", "b"]])
    for step in range(20):
        stream.step(gradients={"*": None}, updates={"*": 0.1}, loss=1.0 + 0.1 * (step % 3))
    return stream


@SCENARIOS.silent(GradientZero)
def behind_a_gate_that_starts_at_zero() -> Stream:
    """Warm-up holds the gate for ten steps; then it opens."""
    stream = Stream([TRUNK, FIRST, SECOND])
    stream.optimizers([[TRUNK.fqn, FIRST.fqn, SECOND.fqn]])
    for step in range(20):
        opened = step > 11
        moved = dict.fromkeys((TRUNK.fqn, FIRST.fqn), float(step > 9))
        gradients = _gradients(1.0 if opened else 0.0, 1.0, 1.0)
        stream.step(gradients=gradients, updates=_rows(moved), loss=1.0 - 0.01 * step)
    return stream


@SCENARIOS.silent(GradientZero)
def vocabulary_that_occurs_now_and_then() -> Stream:
    """One gradient is enough."""
    stream = _run(_gradients(0.0, 1.0, 1.0), 5)
    stream.step(gradients=_gradients(1.0, 1.0, 1.0), updates={"*": 0.1}, loss=1.0)
    stream.step(gradients=_gradients(0.0, 1.0, 1.0), updates={"*": 0.1}, loss=1.0, steps=20)
    return stream


@SCENARIOS.silent(GradientZero)
def adapter_whose_other_half_stays_zero() -> Stream:
    """Without a B there is no way to A: what holds B up is the fault."""
    stream = Stream(["q.lora_A.weight", "q.lora_B.weight", "head.weight"])
    stream.optimizers([["q.lora_A.weight", "q.lora_B.weight", "head.weight"]])
    for _ in range(20):
        stream.step(
            values={"*": 1.0, "q.lora_B.weight": 0.0},
            gradients={"*": 1.0, "q.lora_A.weight": 0.0},
            updates=_rows({"q.lora_A.weight": 0.0, "q.lora_B.weight": 0.0, "head.weight": 0.1}),
            loss=1.0,
        )
    return stream
