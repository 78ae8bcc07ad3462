"""
Runs for average-stuck and average-aliased: copies of a trained network that are written to, or not.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.average_aliased import AverageAliased
from trainvitals_monitor.detectors.average_stuck import AverageStuck
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
ONLINE = ["online.0.weight", "online.0.bias"]
SLOW = ["slow.0.weight", "slow.0.bias"]


def _copied(
    update: Any, *, dtype: str = "float32", loads: tuple[int, ...] = (), source: float = 0.1
) -> Stream:
    """The copy's update at each step, and the steps after which it is loaded."""
    copies = [tensor(name, dtype=dtype, trainable=False) for name in SLOW]
    stream = Stream([*ONLINE, *copies])
    stream.optimizers([ONLINE])
    for step in range(1, 61):
        stream.step(
            values={"*": 1.0},
            updates={**dict.fromkeys(ONLINE, source), **dict.fromkeys(SLOW, update)},
            lr=1e-3,
        )
        if step in loads:
            stream.checkpoint("load", keys=SLOW)
    return stream


@SCENARIOS.fires(AverageStuck, Severity.WARNING, subject=SLOW[0], first_step=10, says="3 times")
def loads_that_change_nothing() -> Stream:
    """It is loaded from itself."""
    return _copied(0.0, loads=(10, 20, 30))


@SCENARIOS.fires(AverageStuck, Severity.WARNING, subject=SLOW[0], first_step=1, says="bfloat16")
def an_average_that_is_rounded_away() -> Stream:
    """One element in twenty changes, where all of the source's do."""
    return _copied({"update_norm": 0.005, "changed": 3, "lost": 0}, dtype="bfloat16")


@SCENARIOS.silent(AverageStuck)
def a_frozen_teacher() -> Stream:
    """In bfloat16; loaded once, late."""
    return _copied(0.0, dtype="bfloat16", loads=(10,))


@SCENARIOS.silent(AverageStuck)
def loads_before_anything_moved() -> Stream:
    """The source has not moved either."""
    return _copied(0.0, loads=(10, 20, 30), source=0.0)


@SCENARIOS.silent(AverageStuck)
def a_copy_that_is_rounded_anew() -> Stream:
    """Few elements change, each by an ulp."""
    return _copied({"update_norm": 0.2, "changed": 3, "lost": 0}, dtype="bfloat16")


@SCENARIOS.silent(AverageStuck)
def an_average_that_keeps_up() -> Stream:
    """In bfloat16, with a decay of a half."""
    return _copied({"update_norm": 0.1, "changed": 50, "lost": 0}, dtype="bfloat16")


def _assigned(names: list[str]) -> Stream:
    """Copies that are the online network's tensors since the sixth step."""
    stream = Stream([*ONLINE, *names])
    stream.optimizers([ONLINE])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=5)
    for index, name in enumerate(names):
        stream.slot(name, "object", "storage")
        stream.retensor(name, tied_to=index)
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=5)
    return stream


def _of_two_names(*replaced: list[str]) -> Stream:
    """A network that is another's part from the first step on; what is replaced, step by step."""
    copies = [tensor(name, tied_to=index) for index, name in enumerate(SLOW)]
    stream = Stream([*ONLINE, *copies])
    stream.optimizers([ONLINE])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=5)
    for names in replaced:
        for name in names:
            stream.slot(name, "object", "storage")
        stream.step(values={"*": 1.0}, updates={"*": 0.1}, lr=1e-3)
    return stream


@SCENARIOS.fires(AverageAliased, Severity.WARNING, subject=SLOW[0], first_step=6, says=ONLINE[0])
def target_that_is_assigned() -> Stream:
    """All tensors of the part, under the same names."""
    return _assigned(SLOW)


@SCENARIOS.silent(AverageAliased)
def two_names_for_one_network() -> Stream:
    """From the first step on."""
    return _of_two_names([])


@SCENARIOS.silent(AverageAliased)
def two_names_for_one_network_that_is_replaced() -> Stream:
    """As by `load_state_dict(assign=True)` of an agent with one encoder."""
    return _of_two_names([*ONLINE, *SLOW])


@SCENARIOS.silent(AverageAliased)
def two_names_that_are_looked_at_in_turn() -> Stream:
    """The other name's tensors are seen to be new ones at the next look."""
    return _of_two_names(SLOW, ONLINE)


@SCENARIOS.silent(AverageAliased)
def one_weight_tied_late() -> Stream:
    """An output layer that is given the embedding's."""
    return _assigned(["output.weight"])
