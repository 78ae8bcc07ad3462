"""
Runs for weights-overwritten.
"""

from __future__ import annotations

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.weights_overwritten import WeightsOverwritten
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
_NAMES = ("a.weight", "b.weight", "c.weight")
_LR = 1e-3
_USUAL = 0.5 * _LR * 8
"""An update of Adam's of 64 elements."""


def _run(
    jump: float = 20.0,
    *,
    live: float = 4.0,
    saved: bool = True,
    counters: bool = True,
    world_size: int = 1,
) -> Stream:
    """Three matrices, and a save after step 12 that found squares of `live`; their next update is `jump` usual ones."""
    stream = Stream([tensor(name, shape=[8, 8]) for name in _NAMES], world_size=world_size)
    stream.optimizers([list(_NAMES)])

    def step(update: float) -> None:
        number = stream.coming if counters or stream.coming <= 12 else stream.coming - 12
        stream.step(
            values={"*": 1.0},
            gradients={"*": 1.0},
            updates={"*": update},
            counters={"*": number},
            lr=_LR,
        )

    for _ in range(12):
        step(_USUAL)
    if saved:
        row = {"digest": 9, "live_digest": 9, "square_sum": live, "live_square_sum": live}
        stream.checkpoint(rows=dict.fromkeys(_NAMES, row))
    step(_USUAL * jump)
    for _ in range(3):
        step(_USUAL)
    return stream


@SCENARIOS.fires(
    WeightsOverwritten, Severity.WARNING, first_step=12, subject="a.weight", says="step 12"
)
def average_left_in_the_model() -> Stream:
    """The save saw other weights, and training went on from them."""
    return _run()


@SCENARIOS.silent(WeightsOverwritten)
def average_swapped_back() -> Stream:
    """The save saw the average; the next update is as any other."""
    return _run(jump=1.0)


@SCENARIOS.silent(WeightsOverwritten)
def rolled_back_after_a_save() -> Stream:
    """The save was of the trained weights; what went back was another matter."""
    return _run(live=1.0)


@SCENARIOS.silent(WeightsOverwritten)
def overwritten_without_a_save() -> Stream:
    """Local steps that are averaged look the same."""
    return _run(saved=False)


@SCENARIOS.silent(WeightsOverwritten)
def half_of_the_way_back() -> Stream:
    """Lookahead's slow weights, saved as they are taken over."""
    return _run(jump=3.0)


@SCENARIOS.silent(WeightsOverwritten)
def other_weights_and_a_new_optimizer() -> Stream:
    """A phase that begins with the best weights so far."""
    return _run(counters=False)


@SCENARIOS.silent(WeightsOverwritten)
def averaged_over_ranks() -> Stream:
    """Two ranks average their local steps, and one saves what came of it."""
    return _run(world_size=2)
