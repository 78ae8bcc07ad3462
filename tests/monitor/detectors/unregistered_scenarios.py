"""
Runs for tensor-unregistered.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream
from trainvitals.frame import UnregisteredSeen, UnregisteredTensor
from trainvitals_monitor.detectors.tensor_unregistered import TensorUnregistered
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()


def _hidden(fqn: str = "blocks[0].weight", **seen: Any) -> UnregisteredTensor:
    """A layer's weight in a list: gradients, no movement."""
    defaults: dict[str, Any] = {
        "module": "Linear",
        "shape": [8, 8],
        "dtype": "float32",
        "trainable": True,
        "held": False,
        "evaluating": False,
        "from_start": True,
        "looks": 16,
        "gradients": 15,
        "moves": 0,
        "drift": 0.0,
    }
    return UnregisteredTensor(fqn=fqn, **{**defaults, **seen})


def _statistic(fqn: str, **seen: Any) -> UnregisteredTensor:
    """A plain tensor that follows the data slowly."""
    still = {"trainable": False, "gradients": 0, "moves": 16, "drift": 2.4, "shape": [8]}
    return _hidden(fqn, **{**still, **seen})


def _run(*tensors: UnregisteredTensor, saved: tuple[str, ...] | None = None, **save: Any) -> Stream:
    stream = Stream(["stem", "head"])
    stream.optimizers([["stem", "head"]])
    facts: dict[str, Any] = {
        "values": {"*": 1.0},
        "gradients": {"*": 1.0},
        "updates": {"*": 0.1},
    }
    stream.step(**facts, steps=15)
    told = UnregisteredSeen(step=stream.coming, tensors=list(tensors))
    stream.step(**facts, events=[told])
    if saved is not None:
        stream.checkpoint(path="a.pt", unregistered=list(saved), **{"has_optimizer": True, **save})
    stream.step(**facts, steps=4)
    return stream


@SCENARIOS.fires(
    TensorUnregistered, Severity.WARNING, first_step=1, says="blocks[0].weight of shape [8, 8] and 1 other"
)  # fmt: skip
def layers_in_a_list() -> Stream:
    """They get gradients and stay as they were drawn."""
    return _run(_hidden(), _hidden("blocks[0].bias", shape=[8]))


@SCENARIOS.fires(TensorUnregistered, Severity.INFO, says="never moved")
def a_network_set_aside_in_eval_mode() -> Stream:
    """Fixed features that nobody froze."""
    return _run(_hidden("features[0].weight", evaluating=True))


@SCENARIOS.fires(TensorUnregistered, Severity.WARNING, says="are trained")
def trained_layers_that_a_checkpoint_lacks() -> Stream:
    """The optimizer has them, the checkpoint does not."""
    return _run(_hidden(held=True, moves=15), saved=())


@SCENARIOS.fires(TensorUnregistered, Severity.WARNING, says="a.pt of step 16 lacks")
def running_statistics_that_a_checkpoint_lacks() -> Stream:
    """They are called so."""
    return _run(_statistic("norm.running_mean"), saved=())


@SCENARIOS.fires(TensorUnregistered, Severity.WARNING, says="a.pt of step 16 lacks")
def a_mean_and_a_deviation_that_a_checkpoint_lacks() -> Stream:
    """Two of one shape on one module."""
    return _run(_statistic("norm.mean"), _statistic("norm.std"), saved=())


@SCENARIOS.fires(TensorUnregistered, Severity.INFO, says="accumulate")
def running_statistics_before_any_save() -> Stream:
    """They may yet be saved."""
    return _run(_statistic("norm.running_mean"))


@SCENARIOS.silent(TensorUnregistered)
def what_a_checkpoint_has_beside_the_model() -> Stream:
    """Saved under another name, or in another file."""
    return _run(
        _statistic("norm.running_mean"),
        _hidden(held=True, moves=15),
        saved=("norm.running_mean", "blocks[0].weight"),
    )


@SCENARIOS.silent(TensorUnregistered)
def an_export_without_them() -> Stream:
    """No checkpoint to resume from."""
    return _run(_statistic("norm.running_mean"), saved=(), has_optimizer=False)


@SCENARIOS.silent(TensorUnregistered)
def sums_and_outputs() -> Stream:
    """A confusion matrix, a loss, a mean without its variance, the last outputs."""
    return _run(
        _statistic("metrics.confusion"),
        _statistic("running_loss_mean"),
        _statistic("pool.mean"),
        _statistic("norm.running_mean", drift=1.0),
        _statistic("norm.running_var", from_start=False),
        _statistic("bn.running_mean", moves=3),
        saved=(),
    )


@SCENARIOS.silent(TensorUnregistered)
def a_critic_with_an_optimizer_of_its_own() -> Stream:
    """It moves, and nobody has said who moves it."""
    return _run(_hidden(moves=14), saved=())


@SCENARIOS.silent(TensorUnregistered)
def gradients_while_nothing_moves() -> Stream:
    """No learning rate yet, or steps that are skipped."""
    stream = Stream(["stem", "head"])
    stream.optimizers([["stem", "head"]])
    told = UnregisteredSeen(step=stream.coming, tensors=[_hidden()])
    nothing = {"*": {"update_norm": 0.0, "changed": 0}}
    stream.step(values={"*": 1.0}, updates=nothing, events=[told])
    stream.step(values={"*": 1.0}, updates=nothing, steps=10)
    return stream
