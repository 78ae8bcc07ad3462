"""
Runs for lora-a-growth, lora-b-stuck, lora-dead and expert-bias-drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.expert_bias_drift import ExpertBiasDrift
from trainvitals_monitor.detectors.lora_a_growth import LoraAGrowth
from trainvitals_monitor.detectors.lora_b_stuck import LoraBStuck
from trainvitals_monitor.detectors.lora_dead import LoraDead
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
A, B = "wq.lora_A.default.weight", "wq.lora_B.default.weight"
BIAS = "layers.0.moe.expert_bias"


def _adapter() -> Stream:
    """A of rank 4 on 16 inputs (64 elements; initialised at 0.14 each: norm 1.2), B [16, 4]."""
    stream = Stream([tensor(A, shape=[4, 16]), tensor(B, shape=[16, 4])])
    stream.optimizers([[A, B]])
    return stream


@SCENARIOS.fires(LoraAGrowth, Severity.CRITICAL, subject="wq.down.weight", says="grew from 1.2")
def pair_of_other_names() -> Stream:
    """A narrow pair beside the frozen weight that it adapts, in one module: an adapter, whatever it is called."""
    names = "wq.down.weight", "wq.up.weight"
    frozen = tensor("wq.linear.weight", shape=[16, 16], trainable=False)
    stream = Stream([frozen, tensor(names[0], shape=[4, 16]), tensor(names[1], shape=[16, 4])])
    stream.optimizers([names])
    for step in range(12):
        stream.step(
            values={names[0]: 1.2 * 1.6**step, names[1]: 0.1 * (step + 1)},
            updates={names[0]: 0.5, names[1]: 0.1},
            gradients={names[0]: 1.0, names[1]: 1.0},
        )
    return stream


@SCENARIOS.silent(LoraAGrowth, LoraBStuck, LoraDead)
def narrow_layers_that_adapt_nothing() -> Stream:
    """The same two beside a weight that is trained as well: no adapter."""
    names = "wq.linear.weight", "wq.down.weight", "wq.up.weight"
    shapes = [16, 16], [4, 16], [16, 4]
    stream = Stream([tensor(name, shape=shape) for name, shape in zip(names, shapes, strict=True)])
    stream.optimizers([names])
    for step in range(12):
        stream.step(values={names[1]: 1.2 * 1.6**step, names[2]: 0.0}, updates={names[1]: 0.5})
    return stream


def _train(
    a: list[float],
    b: list[float],
    *,
    grad_a: float = 1.0,
    grad_b: float | None = 1.0,
    lr: float = 1e-3,
) -> Stream:
    """Norms of A and B after each step; what B gains in a step is its update, from zero unless it is wide."""
    stream, before = _adapter(), b[0] if b[0] > 1 else 0.0
    for norm_a, norm_b in zip(a, b, strict=True):
        stream.step(
            values={A: norm_a, B: norm_b},
            updates={A: 0.01 if norm_b else 0.0, B: abs(norm_b - before)},
            gradients={A: grad_a, B: grad_b},
            lr=lr,
        )
        before = norm_b
    return stream


@SCENARIOS.fires(LoraAGrowth, Severity.CRITICAL, subject=A, first_step=1, says="uninitialised")
def garbage_beside_a_zero_b() -> Stream:
    """Elements of 30 where 0.5 is the widest start."""
    return _train([240.0] * 3, [0.04, 0.08, 0.1])


@SCENARIOS.fires(LoraAGrowth, Severity.CRITICAL, subject=A, first_step=2, says="no gradient")
def growth_while_b_is_zero() -> Stream:
    """A has no gradient while B is zero, and grows."""
    return _train([1.2, 2.0, 3.0], [0.0, 0.0, 0.0], grad_a=0.0)


@SCENARIOS.fires(LoraAGrowth, Severity.CRITICAL, subject=A, says="grew from 1.2")
def explosion_in_training() -> Stream:
    """From 1.2 to 40 in 40 steps, at a rate far too high."""
    return _train([1.2 + step for step in range(40)], [0.5 * (step + 1) for step in range(40)])


@SCENARIOS.silent(LoraAGrowth, LoraBStuck, LoraDead)
def ordinary_adapter() -> Stream:
    """A triples in a small model at a high rate, B leaves zero."""
    return _train(
        [1.2 + 0.04 * step for step in range(60)], [0.04 * (step + 1) for step in range(60)]
    )


@SCENARIOS.silent(LoraAGrowth, LoraBStuck, LoraDead)
def weight_decay_before_b_moves() -> Stream:
    """A shrinks while B is zero; the learning rate is still 0."""
    return _train([1.2, 1.199, 1.198], [0.0, 0.0, 0.0], grad_a=0.0, lr=0.0)


@SCENARIOS.silent(LoraAGrowth)
def adapter_from_a_decomposition() -> Stream:
    """PiSSA: A and B both start wide."""
    return _train([80.0] * 5, [80.0] * 5)


@SCENARIOS.fires(LoraDead, Severity.CRITICAL, subject=A, first_step=1, says=B)
def both_zero_for_ever() -> Stream:
    """Fresh pages: neither has a gradient."""
    return _train([0.0] * 2, [0.0] * 2, grad_a=0.0, grad_b=0.0)


@SCENARIOS.fires(LoraDead, Severity.CRITICAL, subject=A, first_step=5)
def wiped_in_the_middle_of_training() -> Stream:
    """A slot that is cleared while it is in use."""
    return _train([1.2] * 4 + [0.0] * 4, [0.1] * 4 + [0.0] * 4, grad_a=0.0, grad_b=0.0)


@SCENARIOS.silent(LoraDead)
def both_zero_before_a_warm_up() -> Stream:
    """Nothing has been stepped yet."""
    return _train([0.0] * 10, [0.0] * 10, grad_a=0.0, grad_b=0.0, lr=0.0)


@SCENARIOS.silent(LoraDead)
def both_zero_and_not_active() -> Stream:
    """A spare adapter: no gradient at all reaches it."""
    return _train([0.0] * 20, [0.0] * 20, grad_a=0.0, grad_b=None)


@SCENARIOS.silent(LoraDead)
def one_half_of_zeros() -> Stream:
    """An embedding's adapter: A begins at zero, B does not."""
    return _train([0.0, *([0.01] * 9)], [1.2] * 10)


@SCENARIOS.fires(LoraBStuck, Severity.CRITICAL, subject=B, says="although it has a gradient")
def b_with_a_gradient_and_zero() -> Stream:
    """The optimizer steps something else."""
    return _train([1.2] * 10, [0.0] * 10)


@SCENARIOS.silent(LoraBStuck, LoraDead)
def adapter_that_is_not_active() -> Stream:
    """No gradient at all reaches it."""
    return _train([1.2] * 20, [0.0] * 20, grad_b=None)


@SCENARIOS.silent(LoraBStuck)
def adapter_of_an_idle_expert() -> Stream:
    """Its gradient is zero, its A is as it should be."""
    return _train([1.2] * 20, [0.0] * 20, grad_b=0.0)


def _bias(ends: Callable[[int], Any], steps: int = 80) -> Stream:
    stream = Stream([tensor(BIAS, kind="buffer", shape=[4]), "w"])
    for step in range(steps):
        stream.step(values={"*": 1.0}, extremes={BIAS: ends(step)})
    return stream


@SCENARIOS.fires(ExpertBiasDrift, Severity.WARNING, subject=BIAS, says="alike")
def all_experts_pushed_alike() -> Stream:
    """Counts that are zero when they are read: every expert looks idle."""
    return _bias(lambda step: (0.001 * step - 0.02, 0.001 * step + 0.02))


@SCENARIOS.fires(ExpertBiasDrift, Severity.WARNING, subject=BIAS, says="ran apart")
def experts_run_apart() -> Stream:
    """Wider than the scores, and wider at every step."""
    return _bias(lambda step: (-0.6 - 0.01 * step, 0.6 + 0.01 * step))


@SCENARIOS.silent(ExpertBiasDrift)
def both_ends_pushed_alike() -> Stream:
    """The largest and the smallest sink; what lies between them comes up, so that all together stay where they are."""
    return _bias(
        lambda step: {"low": -0.001 * step - 0.02, "high": 0.3 - 0.001 * step, "total": 0.0}
    )


@SCENARIOS.silent(ExpertBiasDrift)
def early_growth_to_both_sides() -> Stream:
    """At the start a bias moves at its full rate at every step."""
    return _bias(lambda step: (-0.001 * step, 0.001 * step))


@SCENARIOS.silent(ExpertBiasDrift)
def wide_and_balanced() -> Stream:
    """A wide bias that goes to and fro."""
    return _bias(lambda step: (-0.8 - 0.01 * (step % 3), 0.8 + 0.01 * (step % 2)))


@SCENARIOS.silent(ExpertBiasDrift)
def bias_that_is_not_updated() -> Stream:
    """Fine-tuning: the loaded bias stays as it is."""
    return _bias(lambda _: (-2.0, 3.0))
