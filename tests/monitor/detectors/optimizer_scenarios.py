"""
Runs for optimizer-state-reset and optimizer-state-low-precision.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.optimizer_state_low_precision import OptimizerStateLowPrecision
from trainvitals_monitor.detectors.optimizer_state_reset import OptimizerStateReset
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
NAMES = ["a.weight", "b.weight"]


def _sketched(towards: float) -> dict[str, Any]:
    """Digest columns of a tensor of squared norm 1, `towards` of a direction (1: there, -1: opposite)."""
    sketch = {f"sketch_{k}": towards * (1.0 if k % 2 else -1.0) for k in range(8)}
    return {"square_sum": 1.0, "count": 64, **sketch}


def _saved(steps: int = 40, *, has_optimizer: bool = True, moment: float = 1.0) -> Stream:
    """An attempt of some steps that ends with a save."""
    stream = Stream([tensor(name, shape=[8, 8]) for name in NAMES])
    stream.optimizers([NAMES])
    for step in range(steps):
        stream.step(values={"*": 1.0}, counters={"*": step + 1}, moments=_moments(moment))
    stream.checkpoint(rows={"*": _sketched(1.0)}, has_optimizer=has_optimizer)
    stream.restart()
    return stream


def _moments(second: float, bits: int = 32) -> dict[str, Any]:
    return {"*": {"first_moment": second, "second_moment": second, "moment_bits": bits}}


def _goes_on(
    stream: Stream, counter: int, *, towards: float = 0.99, moment: float = 1.0, bits: int = 32
) -> Stream:
    """The next attempt: where its weights begin, and at what its counters do."""
    stream.optimizers([NAMES])
    stream.beginning({"*": _sketched(towards)})
    for step in range(3):
        stream.step(
            values={"*": 1.0}, counters={"*": counter + step}, moments=_moments(moment, bits)
        )
    return stream


@SCENARIOS.fires(
    OptimizerStateReset, Severity.WARNING, subject=NAMES[0], first_step=41, says="after 40"
)
def counters_begin_again() -> Stream:
    """The weights are those of the save, the optimizer is new."""
    return _goes_on(_saved(), 1)


@SCENARIOS.fires(OptimizerStateReset, Severity.WARNING, first_step=41, says="second moment")
def moments_lost_and_counters_kept() -> Stream:
    """The counter was restored, what it counts was not."""
    return _goes_on(_saved(), 41, moment=0.02)


@SCENARIOS.silent(OptimizerStateReset, OptimizerStateLowPrecision)
def resumed_in_full() -> Stream:
    """Weights, moments and counters go on."""
    return _goes_on(_saved(), 41, moment=0.98)


@SCENARIOS.silent(OptimizerStateReset)
def begun_from_scratch_under_the_same_name() -> Stream:
    """The weights are new as well."""
    return _goes_on(_saved(), 1, towards=-1.0)


@SCENARIOS.silent(OptimizerStateReset)
def weights_alone_were_kept() -> Stream:
    """No save has an optimizer's state: a fresh optimizer is a choice."""
    return _goes_on(_saved(has_optimizer=False), 1)


@SCENARIOS.silent(OptimizerStateReset)
def a_new_head_of_another_shape() -> Stream:
    """Fine-tuning goes on from the save with other classes: the optimizer's state cannot fit."""
    stream = _saved()
    stream.restart([tensor(NAMES[0], shape=[8, 8]), tensor(NAMES[1], shape=[5, 8])])
    return _goes_on(stream, 1)


@SCENARIOS.silent(OptimizerStateReset)
def rolled_back_to_an_earlier_save() -> Stream:
    """Counters and moments of an earlier step."""
    return _goes_on(_saved(), 11, moment=0.05)


@SCENARIOS.silent(OptimizerStateReset)
def hardly_begun() -> Stream:
    """There was nothing to lose."""
    return _goes_on(_saved(steps=4), 1)


def _decaying(fell: int, due: int = 60, steps: int = 40) -> Stream:
    """Second moments of 16 bits; `fell`: of those due, in each step."""
    stream = Stream([tensor(name, shape=[8, 8]) for name in NAMES])
    stream.optimizers([NAMES])
    for _ in range(steps):
        stream.step(values={"*": 1.0}, decays={"*": {"due": due, "fell": fell}})
    return stream


@SCENARIOS.fires(OptimizerStateLowPrecision, Severity.WARNING, first_step=1, says="that had to")
def second_moments_that_never_fall() -> Stream:
    """4,800 times one had to."""
    return _decaying(0)


@SCENARIOS.silent(OptimizerStateLowPrecision)
def second_moments_that_seldom_had_to_fall() -> Stream:
    """Too few to tell: gradients grow."""
    return _decaying(0, due=2)


@SCENARIOS.silent(OptimizerStateLowPrecision)
def second_moments_that_fall_by_chance() -> Stream:
    """Stochastic rounding lets a few elements fall."""
    return _decaying(1)


def _counted(counts: list[int]) -> Stream:
    stream = Stream(NAMES)
    stream.optimizers([NAMES])
    for count in counts:
        stream.step(values={"*": 1.0}, updates={"*": 0.01}, counters={"*": count})
    return stream


@SCENARIOS.fires(OptimizerStateReset, Severity.INFO, says="after 20")
def optimizer_made_anew_in_each_epoch() -> Stream:
    """The counters go back again and again: by mistake, or by design."""
    return _counted([*range(1, 21)] * 3)


@SCENARIOS.silent(OptimizerStateReset)
def optimizer_made_anew_once() -> Stream:
    """A second phase of the training."""
    return _counted([*range(1, 41), *range(1, 41)])


@SCENARIOS.silent(OptimizerStateReset)
def rolled_back_within_the_process() -> Stream:
    """An older state was loaded after a spike, twice."""
    stream = _counted([*range(1, 31)])
    for _ in range(2):
        stream.checkpoint("load")
        for count in range(11, 31):
            stream.step(values={"*": 1.0}, counters={"*": count})
    return stream


@SCENARIOS.fires(OptimizerStateLowPrecision, Severity.WARNING, first_step=256, says="stood at 256")
def counter_in_bfloat16() -> Stream:
    """257 is 256 in bfloat16."""
    return _counted([min(count, 256) for count in range(1, 290)])


@SCENARIOS.fires(OptimizerStateLowPrecision, Severity.WARNING, first_step=41, says="16 bits")
def moments_cast_on_loading() -> Stream:
    """float32 before, bfloat16 now."""
    return _goes_on(_saved(), 41, bits=16)


@SCENARIOS.silent(OptimizerStateLowPrecision)
def counter_that_passes_by() -> Stream:
    """256 is a number like others."""
    return _counted([*range(240, 300)])


@SCENARIOS.silent(OptimizerStateLowPrecision)
def counter_of_a_player_that_waits() -> Stream:
    """It stands at 256 because its optimizer does not step."""
    stream = _counted([*range(250, 257)])
    for _ in range(40):
        stream.step(values={"*": 1.0}, counters={"*": 256})
    return stream


@SCENARIOS.silent(OptimizerStateLowPrecision)
def narrow_moments_by_design() -> Stream:
    """From the first step on: worth a remark."""
    stream = Stream(NAMES)
    stream.optimizers([NAMES])
    stream.step(values={"*": 1.0}, moments=_moments(1.0, 16), steps=8)
    return stream


def _rounds(*, loss: float = 1.0, lengths: tuple[int, ...] = (20, 20, 20, 20)) -> Stream:
    """An optimizer that is made anew in each round; `loss`: that of a round's first steps, 1 otherwise."""
    stream = Stream(NAMES)
    stream.optimizers([NAMES])
    for length in lengths:
        for step in range(length):
            stream.step(
                values={"*": 1.0},
                counters=dict.fromkeys(NAMES, step + 1),
                loss=loss if step < 4 else 1.0,
                lr=1e-3,
            )
    return stream


@SCENARIOS.fires(OptimizerStateReset, Severity.WARNING, first_step=21, says="last look")
def optimizer_made_in_each_epoch() -> Stream:
    """Four epochs of twenty steps."""
    return _rounds()


@SCENARIOS.silent(OptimizerStateReset)
def optimizer_made_for_each_task() -> Stream:
    """Each begins with a higher loss."""
    return _rounds(loss=2.0)


@SCENARIOS.silent(OptimizerStateReset)
def optimizer_made_for_phases() -> Stream:
    """Of unlike lengths."""
    return _rounds(lengths=(20, 40, 20, 20))
