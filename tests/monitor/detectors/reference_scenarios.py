"""
Runs for differs-from-reference: beside a good run of the same script.
"""

from __future__ import annotations

import math
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.differs_from_reference import DiffersFromReference
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
NAMES = ["a.weight", "b.weight"]
NUMEL = 1024


def _start(digest: int, scale: float = 1.0) -> dict[str, Any]:
    """Digest columns of random values: equal digests are equal bits."""
    sketch = {f"sketch_{k}": scale * (3.3 * k + 0.7 * digest - 11.0) for k in range(8)}
    return {"digest": digest, "count": NUMEL, "square_sum": 4.0 * scale**2, **sketch}


def _run(
    steps: int = 24,
    *,
    digest: int = 1,
    scale: float = 1.0,
    noise: float = 0.0,
    changed: dict[int, dict[str, Any]] | None = None,
    lr: float = 1e-3,
    gradient: float = 0.5,
    dtype: str = "float32",
    wobble: float = 0.0,
) -> Stream:
    """A run in which all goes its way; `changed`: facts of a step that are others than `noise` makes them."""
    stream = Stream(
        [tensor(name, shape=[32, 32], dtype=dtype) for name in NAMES], run=f"run-{digest}"
    )
    stream.optimizers([NAMES])
    stream.beginning({"*": _start(digest, scale)})
    for step in range(1, steps + 1):
        off = 1 + noise * 1.3**step
        size = gradient * (1 + wobble * (-1) ** step) / step**0.1
        facts: dict[str, Any] = {
            "values": {"*": (2.0 + 0.01 * step) * off},
            "updates": {"*": 0.01 * off},
            "gradients": {"*": size * off},
            "loss": (2.1 / step**0.3) * off,
        }
        stream.step(**{**facts, **(changed or {}).get(step, {})}, lr=lr)
    return stream


def _beside(run: Stream, reference: Stream) -> Stream:
    run.reference = reference
    return run


@SCENARIOS.fires(
    DiffersFromReference,
    Severity.WARNING,
    first_step=7,
    subject="b.weight",
    says="until then bit-exact",
)
def a_gradient_that_is_another() -> Stream:
    """All was equal to the bit."""
    return _beside(
        _run(changed={7: {"gradients": {"a.weight": 0.5 / 7**0.1, "b.weight": 0.4}}}), _run()
    )


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=1, says="the norm is")
def a_decay_that_is_lost() -> Stream:
    """Loss and gradients are equal, and a millionth of the values is missing."""
    return _beside(_run(changed={1: {"values": {"*": 2.01 * (1 + 1e-6)}}}), _run())


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=9, says="loss is")
def a_loss_that_jumps() -> Stream:
    """After eight equal steps."""
    return _beside(_run(changed={9: {"loss": 1.3}}), _run())


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=9, says="until then close")
def a_gradient_that_jumps_out_of_the_noise() -> Stream:
    """Rounding differs between the two, and then much more does."""
    return _beside(_run(noise=1e-7, changed={9: {"gradients": {"*": 0.2}}}), _run())


@SCENARIOS.fires(
    DiffersFromReference, Severity.WARNING, first_step=0, says="starts from other values"
)
def another_size_at_the_start() -> Stream:
    """Three times as large, with another seed."""
    return _beside(_run(digest=2, scale=3.0), _run())


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, says="times as large as those of")
def a_quarter_of_the_gradient() -> Stream:
    """Another seed, so that nothing else can be compared."""
    return _beside(_run(digest=2, gradient=0.125, wobble=0.1), _run(wobble=-0.1))


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=1, says="learning rate")
def another_learning_rate() -> Stream:
    """Whatever the seed."""
    return _beside(_run(digest=2, lr=3e-3), _run())


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=0, says="dtype")
def another_type() -> Stream:
    """bfloat16 where there was float32."""
    return _beside(_run(dtype="bfloat16"), _run())


@SCENARIOS.fires(DiffersFromReference, Severity.WARNING, first_step=24, says="zero only in it")
def a_save_with_zeros() -> Stream:
    """The live tensors are equal."""
    run, reference = _run(), _run()
    for stream, square in ((run, 0.0), (reference, 1.0)):
        stream.checkpoint(rows={"b.weight": {"square_sum": square}})
    return _beside(run, reference)


@SCENARIOS.fires(DiffersFromReference, Severity.INFO, first_step=1, says="data or the forward pass")
def the_same_start_and_another_first_loss() -> Stream:
    """Another order of the data, perhaps."""
    return _beside(_run(changed={1: {"loss": 1.7, "gradients": {"*": 0.4}}}), _run())


@SCENARIOS.silent(DiffersFromReference)
def a_repeat() -> Stream:
    """Equal to the bit, and shorter."""
    return _beside(_run(16), _run())


@SCENARIOS.silent(DiffersFromReference)
def rounding_that_grows() -> Stream:
    """Smoothly from one ulp on until the two are far apart."""
    return _beside(_run(80, noise=1e-7), _run(80))


@SCENARIOS.silent(DiffersFromReference)
def another_seed() -> Stream:
    """Other values of the same size, and other batches."""
    return _beside(_run(digest=2, gradient=0.6, noise=0.05, wobble=0.2), _run(wobble=-0.1))


@SCENARIOS.silent(DiffersFromReference)
def one_random_element() -> Stream:
    """The bias of a critic's head is one number, and another one with another seed."""
    runs = []
    for digest, value in ((2, 0.13), (1, -0.19)):
        stream = Stream([tensor("a.weight", shape=[32, 32]), tensor("head.bias", shape=[1])])
        stream.optimizers([["a.weight", "head.bias"]])
        whole = {f"sketch_{k}": value * (-1) ** k for k in range(8)}
        bias = {"digest": digest + 7, "count": 1, "square_sum": value**2, **whole}
        stream.beginning({"a.weight": _start(digest), "head.bias": bias})
        stream.step(values={"*": 1.0}, gradients={"*": 0.1 * digest}, loss=0.7 + digest / 9)
        runs.append(stream)
    return _beside(*runs)


@SCENARIOS.silent(DiffersFromReference)
def a_first_loss_that_says_nothing() -> Stream:
    """A head of zeros gives ln 2 for every batch; gradients are of other data."""
    first = {1: {"loss": math.log(2), "gradients": {"*": 0.4}}}
    other = {1: {"loss": math.log(2), "gradients": {"*": 0.5}}}
    return _beside(_run(changed=first), _run(changed=other))


@SCENARIOS.silent(DiffersFromReference)
def a_run_without_a_reference() -> Stream:
    """Nothing to say."""
    return _run()
