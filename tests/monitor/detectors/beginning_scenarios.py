"""
Runs for wrong-from-initialisation and units-alike.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.detectors.units_alike import UnitsAlike
from trainvitals_monitor.detectors.wrong_from_initialisation import WrongFromInitialisation
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
LAYERS = [f"layers.{number}.w" for number in range(4)]
SMALL = 0.02


def _begun(wrong: Any, fqn: str = "layers.2.w", others: float = SMALL) -> Stream:
    """Four layers' weights, a head, an embedding and a norm; one of them begins otherwise."""
    square = [tensor(name, shape=[8, 8]) for name in LAYERS]
    head, embedding = tensor("head.w", shape=[4, 16]), tensor("embedding.weight", shape=[4, 16])
    stream = Stream([*square, head, embedding, "norm.weight"])
    stream.optimizers([[*LAYERS, head.fqn, embedding.fqn, "norm.weight"]])
    stream.beginning(
        begun={fqn: wrong, "norm.weight": wrong if "norm" in fqn else 1.0, "*": others}
    )
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, lr=1e-3, steps=3)
    return stream


@SCENARIOS.fires(
    WrongFromInitialisation, Severity.CRITICAL, subject="layers.2.w", first_step=1, says="memory"
)
def denormal_numbers_beside_huge_ones() -> Stream:
    """What `torch.empty` may give."""
    return _begun({"zeros": 30, "denormals": 20, "largest": 40.0, "squares": 5e3})


@SCENARIOS.fires(WrongFromInitialisation, Severity.CRITICAL, subject="layers.2.w", says="memory")
def fresh_pages() -> Stream:
    """Zeros, and what the allocator left in them."""
    return _begun({"zeros": 60, "denormals": 4, "largest": 4e-41, "squares": 0.0})


@SCENARIOS.fires(WrongFromInitialisation, Severity.CRITICAL, subject="norm.weight", says="memory")
def an_element_of_a_billion() -> Stream:
    """In a gain, too."""
    return _begun({"largest": 1e9, "squares": 1e18}, fqn="norm.weight")


@SCENARIOS.fires(WrongFromInitialisation, Severity.CRITICAL, subject="head.w", says="other weights")
def activations_of_old() -> Stream:
    """Ordinary numbers, far too wide."""
    return _begun(30.0, fqn="head.w")


@SCENARIOS.fires(WrongFromInitialisation, Severity.WARNING, subject="layers.2.w", says="layers")
def one_layer_of_four_is_wide() -> Stream:
    """A gain that was applied twice."""
    return _begun(4.0)


def _rotary(norm: float) -> Stream:
    stream = Stream(["w", tensor("rotary.inv_freq", kind="buffer", shape=[64], persistent=False)])
    stream.optimizers([["w"]])
    stream.step(values={"w": 1.0, "rotary.inv_freq": norm}, updates={"w": 0.1}, steps=3)
    return stream


@SCENARIOS.fires(
    WrongFromInitialisation,
    Severity.WARNING,
    subject="rotary.inv_freq",
    says="rotary",
    first_step=1,
)
def frequencies_that_nobody_computed() -> Stream:
    """Finite memory, near zero."""
    return _rotary(5e-17)


@SCENARIOS.silent(WrongFromInitialisation)
def frequencies_of_a_stretched_context() -> Stream:
    """A thousandth of the usual ones."""
    return _rotary(0.003)


@SCENARIOS.silent(WrongFromInitialisation)
def standard_normals_everywhere() -> Stream:
    """Scaled in the forward pass; one layer twice as wide."""
    return _begun(2.0, others=1.0)


@SCENARIOS.silent(WrongFromInitialisation)
def wide_embedding() -> Stream:
    """Embeddings may have any width."""
    return _begun(12.0, fqn="embedding.weight")


@SCENARIOS.silent(WrongFromInitialisation)
def small_and_zero_weights() -> Stream:
    """A layer of 1e-10, or of zeros, is meant."""
    return _begun(1e-10)


@SCENARIOS.silent(WrongFromInitialisation)
def nearly_dead_filters() -> Stream:
    """Weight decay took some of a trained weight's elements down to denormal numbers."""
    return _begun({"zeros": 20, "denormals": 30, "largest": 2.0, "squares": 8.0})


@SCENARIOS.silent(WrongFromInitialisation)
def frozen_garbage() -> Stream:
    """Nobody trains it, so nobody may use it."""
    stream = Stream([tensor(name, shape=[8, 8]) for name in LAYERS])
    stream.optimizers([LAYERS[:2]])
    stream.beginning(begun={LAYERS[3]: 100.0, "*": SMALL})
    stream.step(values={"*": 1.0}, lr=1e-3, steps=3)
    return stream


A, B, C = "mlp.inside.weight", "mlp.outside.weight", "head.weight"


def _alike(
    rows: dict[str, float],
    *,
    moved: dict[str, float],
    norms: dict[str, float],
    gradients: dict[str, float | None],
    optimizer: str = "AdamW",
) -> Stream:
    stream = Stream([tensor(name, shape=[8, 8]) for name in (A, B, C)])
    stream.optimizers([[A, B, C]], names=(optimizer,))
    for step in range(1, 17):
        stream.step(
            values={**norms, "*": 1.0},
            updates={**moved, "*": 0.1},
            gradients={**gradients, "*": 1.0},
            rows=rows if step in (8, 16) else None,
            lr=1e-3,
        )
    return stream


@SCENARIOS.fires(UnitsAlike, Severity.WARNING, subject=A, first_step=1, says="never part")
def constant_rows_that_move_alike() -> Stream:
    """Each hidden unit is the same."""
    return _alike({A: 8}, moved={}, norms={}, gradients={})


@SCENARIOS.fires(UnitsAlike, Severity.WARNING, subject=A, first_step=1, says="never move")
def zeros_in_front_of_zeros() -> Stream:
    """Neither has a gradient."""
    return _alike({A: 8, B: 8}, moved={A: 0, B: 0}, norms={A: 0, B: 0}, gradients={A: 0, B: 0})


@SCENARIOS.silent(UnitsAlike)
def rows_alike_in_a_weight_that_rests() -> Stream:
    """The other player of a GAN, or a warm-up from a learning rate of 0."""
    return _alike({A: 8}, moved={A: 0}, norms={}, gradients={})


@SCENARIOS.silent(UnitsAlike)
def rows_moved_by_signs() -> Stream:
    """Lion moves all rows alike while their gradients have one sign."""
    return _alike({A: 8}, moved={}, norms={}, gradients={}, optimizer="Lion")


@SCENARIOS.silent(UnitsAlike)
def rows_that_only_decay() -> Stream:
    """No gradient reaches them."""
    return _alike({A: 8}, moved={}, norms={}, gradients={A: 0.0})


@SCENARIOS.silent(UnitsAlike)
def one_weight_of_zeros_without_gradient() -> Stream:
    """The last layer of a branch that is not in use yet."""
    return _alike({B: 8}, moved={B: 0}, norms={B: 0}, gradients={A: 0.0, B: 0.0})


@SCENARIOS.silent(UnitsAlike)
def zeros_that_no_batch_has_reached() -> Stream:
    """They have no gradient at all."""
    return _alike(
        {A: 8, B: 8}, moved={A: 0, B: 0}, norms={A: 0, B: 0}, gradients={A: None, B: None}
    )


@SCENARIOS.silent(UnitsAlike)
def all_at_rest() -> Stream:
    """No gradient anywhere: a loss of zero."""
    none: dict[str, float | None] = {A: 0.0, B: 0.0, C: 0.0}
    return _alike({A: 8, B: 8}, moved={A: 0, B: 0, C: 0}, norms={A: 0, B: 0}, gradients=none)
