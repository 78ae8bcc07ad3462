"""
Runs for router-collapse, router-untrained, expert-dead, expert-load-imbalance, and expert-bias-drift's wrong sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.expert_bias_drift import ExpertBiasDrift
from trainvitals_monitor.detectors.expert_dead import ExpertDead
from trainvitals_monitor.detectors.expert_load_imbalance import ExpertLoadImbalance
from trainvitals_monitor.detectors.router_collapse import RouterCollapse
from trainvitals_monitor.detectors.router_untrained import RouterUntrained
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
COUNTER, BIAS, GATE, STACK = "moe.tokens_per_expert", "moe.expert_bias", "moe.gate.weight", "moe.w1"


def _experts(
    load: Callable[[int], float],
    *,
    steps: int = 40,
    follows: float | None = None,
    trained: bool = True,
    warm_up: bool = False,
    feeding: dict[str, Any] | None = None,
    **columns: Any,
) -> Stream:
    """Eight experts; `load` gives the effective ones by step, at each and over the last looks alike."""
    stream = Stream(
        [
            tensor(COUNTER, kind="buffer", persistent=False, shape=[8]),
            tensor(BIAS, kind="buffer", shape=[8]),
            tensor(GATE, shape=[8, 8], trainable=trained),
            tensor(STACK, shape=[8, 8, 8]),
        ]
    )
    stream.optimizers([[GATE, STACK] if trained else [STACK]])
    for step in range(1, steps + 1):
        row = {"effective_experts": load(step), "recent_effective": load(step), **columns}
        stream.step(
            routing={} if feeding else {COUNTER: row},
            feeding={STACK: feeding} if feeding else {},
            balancing={} if follows is None else {BIAS: follows},
            lr=1e-3 * (step if warm_up else 1),
        )
    return stream


@SCENARIOS.fires(RouterCollapse, Severity.WARNING, subject=COUNTER, first_step=1, says="of 1.5 eq")
def two_experts_take_all() -> Stream:
    """From the first step on, and to the last."""
    return _experts(lambda _: 1.5)


@SCENARIOS.fires(RouterCollapse, Severity.INFO)
def collapse_that_a_bias_mends() -> Stream:
    """The bias moves against the load at every step: it takes its time."""
    return _experts(lambda _: 1.5, follows=-0.9)


@SCENARIOS.fires(RouterCollapse, Severity.WARNING)
def collapse_that_a_bias_makes_worse() -> Stream:
    """There is a bias, but it moves with the load."""
    return _experts(lambda _: 1.5, follows=0.9)


@SCENARIOS.silent(RouterCollapse, ExpertLoadImbalance)
def collapse_that_heals() -> Stream:
    """A balancing loss that works, from a bad start."""
    return _experts(lambda step: min(8.0, 1.2 + 0.02 * step), steps=80)


@SCENARIOS.silent(RouterCollapse)
def collapse_in_warm_up() -> Stream:
    """Nothing can change while the learning rate is next to 0."""
    return _experts(lambda _: 1.5, warm_up=True)


@SCENARIOS.silent(RouterCollapse)
def router_that_nobody_trains() -> Stream:
    """Frozen: its load is what it was made to be."""
    return _experts(lambda _: 1.5, trained=False)


@SCENARIOS.silent(RouterCollapse)
def few_tokens_a_step() -> Stream:
    """So few that equal chances make uneven loads."""
    return _experts(lambda _: 1.5, recent_tokens=64.0)


@SCENARIOS.silent(RouterCollapse)
def four_of_eight_by_choice() -> Stream:
    """Each token takes six of the eight: six effective ones would be the least."""
    return _experts(lambda _: 6.8, chosen=6)


@SCENARIOS.fires(ExpertDead, Severity.WARNING, subject=COUNTER, says="2 of the 8")
def two_experts_without_a_token() -> Stream:
    """All others are in use."""
    return _experts(lambda _: 6.0, unused=2)


@SCENARIOS.fires(ExpertDead, Severity.WARNING, subject=STACK, says="had no gradient")
def two_experts_without_a_gradient() -> Stream:
    """No counter says so."""
    return _experts(lambda _: 8.0, feeding={"stacked": 8, "fed": 6, "unfed": 2})


@SCENARIOS.fires(ExpertDead, Severity.INFO)
def few_of_many_experts_unused() -> Stream:
    """Narrow data on a model that was trained on everything."""
    return _experts(lambda _: 60.0, experts=128, unused=9, recent_tokens=128 * 500.0)


@SCENARIOS.silent(ExpertDead)
def experts_seldom_chosen_by_chance() -> Stream:
    """Many experts and few tokens: some are missed by all."""
    return _experts(lambda _: 40.0, experts=64, unused=12, recent_tokens=1000.0)


@SCENARIOS.silent(ExpertDead)
def experts_with_few_gradients() -> Stream:
    """The median expert has a gradient at every other look: one without any is chance."""
    return _experts(
        lambda _: 8.0, feeding={"stacked": 8, "fed": 4, "unfed": 2, "usual_feeds": 16.0}
    )


@SCENARIOS.fires(ExpertLoadImbalance, Severity.WARNING, first_step=41, says="8.0 at best")
def loads_that_drift_apart() -> Stream:
    """Even at first, and uneven from the 41st step on."""
    return _experts(lambda step: 8.0 if step <= 40 else 3.0, steps=100)


@SCENARIOS.fires(ExpertLoadImbalance, Severity.INFO)
def loads_uneven_from_the_start() -> Stream:
    """Perhaps a model that somebody has trained before, on other data."""
    return _experts(lambda _: 3.0, steps=60)


@SCENARIOS.silent(ExpertLoadImbalance)
def loads_uneven_for_a_while() -> Stream:
    """Then even again."""
    return _experts(lambda step: 3.0 if 40 < step < 80 else 8.0, steps=120)


@SCENARIOS.fires(ExpertBiasDrift, Severity.WARNING, subject=BIAS, says="grows for the experts")
def bias_of_the_wrong_sign() -> Stream:
    """It feeds who has most, and the load stays uneven."""
    return _experts(lambda step: 6.0 - 0.05 * step, follows=0.8)


@SCENARIOS.silent(ExpertBiasDrift)
def bias_of_the_right_sign() -> Stream:
    """However uneven the load is."""
    return _experts(lambda _: 2.0, follows=-0.8)


@SCENARIOS.silent(ExpertBiasDrift)
def bias_that_is_subtracted() -> Stream:
    """It grows for who has most, and the load is even."""
    return _experts(lambda _: 7.8, follows=0.8)


@SCENARIOS.silent(ExpertBiasDrift)
def subtracted_bias_that_mends() -> Stream:
    """It grows for who has most, and the load gets even."""
    return _experts(lambda step: 3.0 + 0.05 * step, follows=0.8)


def _routed(gradient: float, *, steps: int = 20, trained: bool = True, experts: int = 8) -> Stream:
    """A gate with gradients of this norm beside experts of 1."""
    stream = Stream(
        [
            tensor(GATE, shape=[experts, 8], trainable=trained),
            tensor(STACK, shape=[experts, 8, 8]),
        ]
    )
    stream.optimizers([[GATE, STACK] if trained else [STACK]])
    stream.step(values={"*": 1.0}, gradients={GATE: gradient, STACK: 1.0}, lr=1e-3, steps=steps)
    return stream


@SCENARIOS.fires(RouterUntrained, Severity.WARNING, subject=GATE, first_step=1, says="12 looks")
def weight_of_one_expert_divided_by_itself() -> Stream:
    """What is left is rounding."""
    return _routed(1e-9)


@SCENARIOS.fires(RouterUntrained, Severity.WARNING, subject=GATE)
def scores_that_only_choose() -> Stream:
    """Nothing at all."""
    return _routed(0.0)


@SCENARIOS.silent(RouterUntrained)
def router_that_hardly_learns() -> Stream:
    """A thousandth of the experts' gradients."""
    return _routed(1e-3)


@SCENARIOS.silent(RouterUntrained)
def router_to_a_single_expert() -> Stream:
    """The baseline of a study: its softmax is 1."""
    return _routed(0.0, experts=1)


@SCENARIOS.silent(RouterUntrained)
def router_that_is_frozen() -> Stream:
    """No optimizer has it."""
    return _routed(0.0, trained=False)
