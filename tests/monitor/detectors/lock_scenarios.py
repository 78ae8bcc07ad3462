"""
Runs for contract-broken under a lock: kept by the run that it was made from, broken by every departure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals.contract import Contract
from trainvitals.frame import TensorInfo
from trainvitals.lock import Lock
from trainvitals_monitor.detectors.contract_broken import ContractBroken
from trainvitals_monitor.detectors.tied_weights_broken import TiedWeightsBroken
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.locking import lock_of

SCENARIOS = Scenarios()

W, BIAS, CACHE = "layers.0.w", "layers.0.bias", "layers.0.cache"
MODEL: tuple[TensorInfo, ...] = (
    tensor(W),
    tensor(BIAS),
    tensor(CACHE, kind="buffer", persistent=True),
    tensor("layers.1.w"),
)


def run(
    model: Sequence[TensorInfo] = MODEL,
    *,
    contract: Contract | None = None,
    updates: Mapping[str, Any] | None = None,
    steps: int = 20,
    base_step: int = 0,
    lr: float = 1e-3,
) -> Stream:
    """A run in which all but the cache moves, but for what is given."""
    stream = Stream(model, contract=contract, base_step=base_step)
    held = [info.fqn for info in model if info.kind == "param"]
    stream.optimizers([held])
    moves = {"*": 0.1, CACHE: {"update_norm": 0.0, "changed": 0}, **(updates or {})}
    for _ in range(steps):
        stream.step(values={"*": 1.0}, updates=moves, lr=lr)
    return stream


def lock(stream: Stream | None = None) -> Lock:
    """The lock of the run as it should be, or of this one."""
    attempt = (stream or run()).engine().history.current
    assert attempt is not None
    return lock_of(attempt)


def under(held: Lock, **fields: Any) -> Contract:
    """A contract with this lock."""
    return Contract(lock=held, **fields)


def _with(fqn: str, **fields: Any) -> list[TensorInfo]:
    """The model with one tensor that is different."""
    return [
        tensor(info.fqn, **{"kind": info.kind, **fields}) if info.fqn == fqn else info
        for info in MODEL
    ]


@SCENARIOS.silent(ContractBroken)
def the_same_run_again() -> Stream:
    """What the lock was made from."""
    return run(contract=under(lock()))


@SCENARIOS.silent(ContractBroken)
def a_longer_run_in_which_more_moves() -> Stream:
    """A schedule that unfreezes later than the lock's run went says nothing against it."""
    stream = run(contract=under(lock()), steps=21)
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, steps=3)
    return stream


@SCENARIOS.silent(ContractBroken)
def a_resumed_run_that_decays_to_zero() -> Stream:
    """No learning rate, no movement."""
    still = {"*": {"update_norm": 0.0, "changed": 0}}
    return run(contract=under(lock()), base_step=1000, lr=0.0, updates=still)


@SCENARIOS.silent(ContractBroken)
def seldom_looked_at() -> Stream:
    """Under a budget: two looks, over a step each, at what moves now and then."""
    stream = Stream(MODEL, contract=under(lock()))
    stream.optimizers([[W, BIAS, "layers.1.w"]])
    for step in range(40):
        look = {W: {"update_norm": 0.0, "changed": 0}} if step in (10, 30) else {}
        stream.step(values={"*": 1.0}, updates={**look, BIAS: 0.1, "layers.1.w": 0.1}, lr=1e-3)
    return stream


@SCENARIOS.silent(ContractBroken)
def frozen_step_by_step() -> Stream:
    """A tensor's later life is not the lock's business: it is compared as it was first seen."""
    stream = Stream(MODEL, contract=under(lock()))
    stream.step(values={"*": 1.0}, updates={"*": 0.1, CACHE: {"changed": 0, "update_norm": 0.0}})
    stream.retensor(W, trainable=False)
    stream.step(values={"*": 1.0}, steps=3)
    return stream


@SCENARIOS.silent(ContractBroken)
def departures_that_are_ignored() -> Stream:
    """Of tensors that are there, and of such that are not."""
    model = _with(W, dtype="float64")[:-1]
    return run(model, contract=under(lock(), ignore=["layers.0.w", "layers.1.*"]))


@SCENARIOS.fires(
    ContractBroken,
    Severity.CRITICAL,
    says="lacks 1 of the tensors in the lock of the contract: layers.1.w",
)
def a_tensor_less() -> Stream:
    """A layer that is gone."""
    return run(MODEL[:-1], contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.WARNING, subject="layers.2.w", says="not in the lock")
def a_tensor_more() -> Stream:
    """A layer that is new."""
    return run([*MODEL, tensor("layers.2.w")], contract=under(lock()))


@SCENARIOS.fires(
    ContractBroken,
    Severity.CRITICAL,
    subject=W,
    says="is bfloat16; the lock of the contract says float32",
)
def a_narrower_dtype() -> Stream:
    """Fewer bits than it had."""
    return run(_with(W, dtype="bfloat16"), contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject=W, says="shape [8]")
def another_shape() -> Stream:
    """Another model."""
    return run(_with(W, shape=[8]), contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject=W, says="asks for no gradient")
def no_longer_trained() -> Stream:
    """Frozen by mistake, from the start."""
    return run(_with(W, trainable=False), contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject=CACHE, says="in no state dict")
def no_longer_saved() -> Stream:
    """A buffer that became non-persistent."""
    return run(_with(CACHE, persistent=False), contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.CRITICAL, subject=W, says="is a buffer")
def a_parameter_made_a_buffer() -> Stream:
    """No optimizer sees it any more."""
    return run(_with(W, kind="buffer", trainable=False), contract=under(lock()))


@SCENARIOS.fires(ContractBroken, Severity.WARNING, subject=W, says="has not moved")
def what_should_move_does_not() -> Stream:
    """Held by an optimizer at a learning rate, and still."""
    return run(contract=under(lock()), updates={W: {"update_norm": 0.0, "changed": 0}})


@SCENARIOS.fires(ContractBroken, Severity.WARNING, subject=CACHE, says="moved in step 1;")
def what_should_stay_moves() -> Stream:
    """A buffer that nothing wrote."""
    return run(contract=under(lock()), updates={CACHE: 0.1})


@SCENARIOS.fires(TiedWeightsBroken, Severity.CRITICAL, subject=W, says="declared")
def a_declared_tie_that_never_was() -> Stream:
    """Two tensors from the start, which drift apart."""
    stream = Stream(MODEL, contract=Contract(tied=[(W, "layers.1.w")]))
    stream.optimizers([[W, "layers.1.w"]])
    exact = {"exact": 1}
    stream.step(values={"*": {"norm": 1.0, **exact}, W: {"norm": 2.0, **exact}}, steps=2)
    return stream
