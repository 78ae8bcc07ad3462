"""
Runs for codebook-collapse.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.codebook_collapse import CodebookCollapse
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
SIZES = "vq.cluster_size"


def _used(recently: Callable[[int], int], codes: int = 64, memory: float = 10.0) -> Stream:
    """How many codes were in use of late, by step."""
    stream = Stream(["encoder.weight", tensor(SIZES, kind="buffer", shape=[codes])])
    stream.optimizers([["encoder.weight"]])
    for step in range(1, 101):
        used = recently(step)
        row = {
            "codes": codes,
            "picked": min(used, 4),
            "picked_recently": used,
            "memory_steps": memory,
        }
        stream.step(values={"*": 1.0}, codes={SIZES: row}, lr=1e-3)
    return stream


@SCENARIOS.fires(CodebookCollapse, Severity.WARNING, subject=SIZES, first_step=1, says="1 of 64")
def one_code_takes_all() -> Stream:
    """From the first step on."""
    return _used(lambda _: 1)


@SCENARIOS.fires(CodebookCollapse, Severity.WARNING, first_step=41)
def codes_that_die_out() -> Stream:
    """Ten of a thousand are left."""
    return _used(lambda step: 10 if step > 40 else 300, codes=1024)


@SCENARIOS.silent(CodebookCollapse)
def dead_codes_are_replaced() -> Stream:
    """After forty steps with one."""
    return _used(lambda step: 1 if step <= 40 else 60)


@SCENARIOS.silent(CodebookCollapse)
def dead_codes_that_are_not_known_to_be() -> Stream:
    """Averages over a hundred steps: after eighty, none has fallen low enough to be replaced."""
    return _used(lambda step: 1 if step <= 80 else 60, memory=100.0)


@SCENARIOS.fires(CodebookCollapse, Severity.WARNING, says="61 looks")
def one_code_for_longer_than_sizes_remember() -> Stream:
    """It is told when averages over twenty steps have forgotten the first ones."""
    return _used(lambda _: 1, memory=20.0)


@SCENARIOS.silent(CodebookCollapse)
def few_codes_for_simple_data() -> Stream:
    """Four of 64."""
    return _used(lambda _: 4)
