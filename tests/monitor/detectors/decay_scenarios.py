"""
Runs for norm-collapse: gains of norms under weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import NUMEL, Stream, tensor
from trainvitals_monitor.detectors.norm_collapse import NormCollapse
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
GAINS = ["0.attention_norm.weight", "1.attention_norm.weight"]
ONES = {"digest": 1, "square_sum": float(NUMEL)}


def _decayed(
    groups: Sequence[Sequence[str]],
    decay: Sequence[float],
    gain: Callable[[int], float],
    *,
    optimizer: str = "AdamW",
    lr: float = 1e-2,
    steps: int = 100,
) -> Stream:
    """Gains that began at 1 and are at `gain(step)` after each step, beside a matrix and a bias."""
    stream = Stream([tensor("0.w", shape=[8, 8]), *GAINS, "0.bias"])
    stream.optimizers(groups, names=(optimizer,))
    stream.beginning({**dict.fromkeys(GAINS, ONES), "*": {"digest": 2, "square_sum": 3.0}})
    for step in range(1, steps + 1):
        stream.step(
            values={**dict.fromkeys(GAINS, gain(step) * math.sqrt(NUMEL)), "*": 5.0},
            lr=[lr] * len(groups),
            weight_decay=decay,
        )
    return stream


def _sinking(step: int) -> float:
    """As a learning rate of 0.01 and a decay of 1 have it."""
    return math.exp(-0.01 * step)


@SCENARIOS.fires(
    NormCollapse, Severity.WARNING, subject=GAINS[0], first_step=1, says="not this one"
)
def gains_missed_by_the_exemption() -> Stream:
    """The bias is exempt, the gains go with the matrix."""
    return _decayed([["0.w", *GAINS], ["0.bias"]], [1.0, 0.0], _sinking)


@SCENARIOS.fires(NormCollapse, Severity.WARNING, first_step=1)
def exemption_that_matched_nothing() -> Stream:
    """A model without biases: the group without decay is empty."""
    return _decayed([["0.w", *GAINS, "0.bias"], []], [1.0, 0.0], _sinking)


@SCENARIOS.fires(NormCollapse, Severity.INFO, first_step=1, says="no parameter is exempt")
def everything_is_decayed() -> Stream:
    """All parameters alike, and half of the gains is gone: worth knowing."""
    return _decayed([["0.w", *GAINS, "0.bias"]], [1.0], _sinking)


@SCENARIOS.silent(NormCollapse)
def gains_exempt() -> Stream:
    """They sink by learning."""
    return _decayed([["0.w"], [*GAINS, "0.bias"]], [1.0, 0.0], _sinking)


@SCENARIOS.silent(NormCollapse)
def small_decay() -> Stream:
    """The usual decay of 0.1: the gains sink by learning, ten times as fast."""
    return _decayed([["0.w", *GAINS], ["0.bias"]], [0.1, 0.0], _sinking)


@SCENARIOS.silent(NormCollapse)
def gains_that_hold_against_the_decay() -> Stream:
    """Their gradients keep them up."""
    return _decayed([["0.w", *GAINS], ["0.bias"]], [1.0, 0.0], lambda _: 0.9)


@SCENARIOS.silent(NormCollapse)
def decay_within_the_gradient() -> Stream:
    """Adam scales what the decay adds to the gradient: the rates say nothing of its effect."""
    return _decayed([["0.w", *GAINS], ["0.bias"]], [1.0, 0.0], _sinking, optimizer="Adam")
