"""
Runs for checkpoint-stale, checkpoint-keys-changed, checkpoint-incomplete, load-incomplete and resume-not-applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import NUMEL, Stream, digest_of, tensor
from trainvitals.facts import SKETCH_SIZE
from trainvitals_monitor.detectors.checkpoint_incomplete import CheckpointIncomplete
from trainvitals_monitor.detectors.checkpoint_keys_changed import CheckpointKeysChanged
from trainvitals_monitor.detectors.checkpoint_stale import CheckpointStale
from trainvitals_monitor.detectors.load_incomplete import LoadIncomplete
from trainvitals_monitor.detectors.resume_not_applied import ResumeNotApplied
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()
BIAS = "moe.expert_bias"
WEIGHTS = ["embed.weight", *(f"layers.{layer}.wq.weight" for layer in range(6)), "output.weight"]


def _trained(steps: int = 5) -> Stream:
    stream = Stream(["a", "b", "c", tensor(BIAS, kind="buffer")])
    stream.optimizers([["a", "b", "c"]])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, steps=steps)
    return stream


def _older(fqn: str, step: int) -> dict[str, Any]:
    return {"digest": digest_of(fqn, 9), "stale_step": step}


@SCENARIOS.fires(CheckpointStale, Severity.CRITICAL, subject=BIAS, first_step=5, says="all zeros")
def zeros_beside_live_weights() -> Stream:
    """The cached dict has the buffer as it was registered."""
    stream = _trained()
    stream.checkpoint(rows={BIAS: {"digest": 1, "square_sum": 0.0, "stale_step": 0}}, path="step-5")
    return stream


@SCENARIOS.fires(CheckpointStale, Severity.CRITICAL, subject=BIAS, first_step=5, says="step-5")
def zeros_in_every_checkpoint() -> Stream:
    """Each save is wrong in the same way: one finding, from the first of them on."""
    stream = zeros_beside_live_weights()
    for save in range(3):
        stream.step(values={"*": 1.0}, updates={"*": 0.1})
        zeros = {"digest": 1, "square_sum": 0.0, "stale_step": 0}
        stream.checkpoint(rows={BIAS: zeros}, path=f"step-{6 + save}")
    return stream


@SCENARIOS.fires(CheckpointStale, Severity.CRITICAL, subject=BIAS, says="at step 2")
def older_buffer_beside_live_weights() -> Stream:
    """Zero is not the only wrong value."""
    stream = _trained()
    stream.checkpoint(rows={BIAS: _older(BIAS, 2)}, path="step-5")
    return stream


@SCENARIOS.silent(CheckpointStale)
def true_save() -> Stream:
    """Every entry is the live tensor."""
    stream = _trained()
    stream.checkpoint(path="step-5")
    return stream


@SCENARIOS.silent(CheckpointStale)
def best_model_kept_aside() -> Stream:
    """All entries are of one older step."""
    stream = _trained()
    stream.checkpoint(rows={fqn: _older(fqn, 3) for fqn in ("a", "b", "c", BIAS)}, path="best")
    return stream


@SCENARIOS.silent(CheckpointStale)
def averaged_weights() -> Stream:
    """EMA: other than live, and equal to nothing older; one buffer not yet touched is zero."""
    stream = _trained()
    rows: dict[str, Any] = {fqn: {"digest": digest_of(fqn, 7)} for fqn in ("a", "b", "c")}
    stream.checkpoint(rows={**rows, BIAS: {"digest": 1, "square_sum": 0.0}}, path="ema")
    return stream


@SCENARIOS.silent(CheckpointStale)
def save_that_failed() -> Stream:
    """Nothing was written."""
    stream = _trained()
    stream.checkpoint(rows={BIAS: _older(BIAS, 2)}, failed=True)
    return stream


def _compiled() -> Stream:
    """A model with a compiled block: the module tree has `_orig_mod` all along."""
    stream = Stream(
        ["embed.weight", "layers.0._orig_mod.wq.weight", "layers.1._orig_mod.wq.weight"]
    )
    stream.step(values={"*": 1.0}, updates={"*": 0.1})
    return stream


PLAIN = ["embed.weight", "layers.0.wq.weight", "layers.1.wq.weight"]


@SCENARIOS.fires(
    CheckpointKeysChanged,
    Severity.CRITICAL,
    subject="layers.0.wq.weight",
    first_step=2,
    says="_orig_mod",
)
def keys_renamed_between_two_saves() -> Stream:
    """The cached dict was renamed in between."""
    stream = _compiled()
    stream.checkpoint(keys=PLAIN, path="/runs/step-1")
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/runs/step-2")
    return stream


@SCENARIOS.fires(
    CheckpointKeysChanged, Severity.CRITICAL, subject="layers.0.wq.weight", says="2 of its 3"
)
def keys_renamed_after_a_resume() -> Stream:
    """The second job saves other names than the first; the model is wrapped as before."""
    stream = _compiled()
    stream.checkpoint(keys=PLAIN, path="/runs/step-1")
    stream.restart()
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/runs/step-2")
    return stream


@SCENARIOS.fires(CheckpointKeysChanged, Severity.WARNING, subject="embed.weight")
def model_wrapped_between_two_jobs() -> Stream:
    """DDP came along: names gain a prefix, of the model and of the checkpoint."""
    stream = Stream(PLAIN)
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/runs/step-1")
    stream.restart([f"module.{fqn}" for fqn in PLAIN])
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/runs/step-2")
    return stream


@SCENARIOS.silent(CheckpointKeysChanged)
def prefixed_from_the_start() -> Stream:
    """A trainer that always saves so is consistent."""
    stream = _compiled()
    for _ in range(3):
        stream.checkpoint(path=f"/runs/step-{stream.now}")
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(CheckpointKeysChanged)
def final_export_with_plain_names() -> Stream:
    """Another kind of file may have other names."""
    stream = _compiled()
    stream.checkpoint(path="/runs/step-1.pt")
    stream.checkpoint(keys=PLAIN, path="/runs/model_final.pt")
    return stream


@SCENARIOS.silent(CheckpointKeysChanged)
def save_of_a_part() -> Stream:
    """Adapters alone, under the same name."""
    stream = _compiled()
    stream.checkpoint(path="/runs/step-1.pt")
    stream.checkpoint(keys=["layers.0.wq.weight"], path="/runs/step-2.pt")
    return stream


def _columns(vector: np.ndarray[Any, Any], fqn: str, version: int) -> dict[str, Any]:
    """DIGESTS columns of a made-up tensor: its sketch by random signs, the same for all."""
    signs = np.random.default_rng(5).choice([-1.0, 1.0], (SKETCH_SIZE, len(vector)))
    sketch = signs @ vector
    return {
        "digest": digest_of(fqn, version),
        "square_sum": float(vector @ vector),
        **{f"sketch_{k}": float(sketch[k]) for k in range(SKETCH_SIZE)},
    }


def _state(seed: int, moved: float = 0.0) -> dict[str, dict[str, Any]]:
    """A model's state from this seed, moved by so much (in standard deviations)."""
    rows = {}
    for number, fqn in enumerate(WEIGHTS):
        vector = np.random.default_rng((seed, number)).normal(size=64)
        away = np.random.default_rng((99, number)).normal(size=64)
        version = seed * 1000 + int(moved * 100)
        rows[fqn] = _columns(vector + moved * away, fqn, version)
    return rows


def _live(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Manifest rows of a save or load that is true."""
    return {
        fqn: {**row, "live_digest": row["digest"], "live_square_sum": row["square_sum"]}
        for fqn, row in rows.items()
    }


def _resumed(
    start: Mapping[str, Any], *, load: Mapping[str, Any] | None = None, counter: int = 1
) -> Stream:
    """An attempt of ten steps and its save of state 1; then one that starts from `start` after loading `load`."""
    stream = Stream(WEIGHTS)
    stream.step(values={"*": 1.0}, counters={"*": 10}, steps=10)
    stream.checkpoint(path="step-10", rows=_live(_state(1)))
    stream.restart()
    if load is not None:
        stream.checkpoint("load", rows=_live(load), path="step-10")
    stream.beginning(start)
    stream.step(values={"*": 1.0}, counters={"*": counter}, steps=3)
    return stream


@SCENARIOS.fires(
    ResumeNotApplied, Severity.CRITICAL, first_step=10, says="what was loaded step-10 at step 10"
)
def initialised_again_after_loading() -> Stream:
    """The load took, and the first step starts from other weights."""
    return _resumed(_state(2), load=_state(1))


@SCENARIOS.fires(ResumeNotApplied, Severity.CRITICAL, says="although its optimizer continues")
def weights_fresh_and_optimizer_restored() -> Stream:
    """A partial load restored the optimizer only; what it says it loaded is what was there."""
    return _resumed(_state(2), load=_state(2), counter=11)


@SCENARIOS.fires(ResumeNotApplied, Severity.CRITICAL, says="matched 0 of its 8 keys")
def load_that_matched_nothing() -> Stream:
    """strict=False, and names of another library."""
    stream = Stream(WEIGHTS)
    keys = [f"model.{fqn.replace('.', '_')}" for fqn in WEIGHTS]
    stream.checkpoint("load", keys=keys, missing=WEIGHTS, unexpected=keys, is_model=False)
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.silent(ResumeNotApplied)
def resumed_as_saved() -> Stream:
    """Bit for bit."""
    return _resumed(_state(1), load=_state(1), counter=11)


@SCENARIOS.silent(ResumeNotApplied)
def one_unseen_step_after_the_load() -> Stream:
    """Attached late: the weights have moved a little."""
    return _resumed(_state(1, moved=0.1), load=_state(1), counter=12)


@SCENARIOS.silent(ResumeNotApplied)
def fresh_start_under_the_same_name() -> Stream:
    """No load, no counters: the next fold of a cross-validation."""
    return _resumed(_state(2))


@SCENARIOS.silent(ResumeNotApplied)
def new_head_after_loading() -> Stream:
    """One tensor of eight is initialised anew."""
    start = {**_state(1), "output.weight": _state(2)["output.weight"]}
    return _resumed(start, load=_state(1), counter=11)


@SCENARIOS.silent(ResumeNotApplied)
def adapters_loaded_over_a_base() -> Stream:
    """All of the load fits; that the base is missing from it is meant."""
    stream = Stream([*WEIGHTS, "lora.a", "lora.b", "lora.c"])
    stream.checkpoint("load", keys=["lora.a", "lora.b", "lora.c"], missing=WEIGHTS)
    stream.step(values={"*": 1.0})
    return stream


def _with_statistics(saved: list[str], **fields: Any) -> Stream:
    """A model whose tensors all move, and a save of some of them."""
    names = ["embed.weight", "norm.weight", "norm.bias", "head.weight"]
    stream = Stream([*names, tensor("norm.running_mean", kind="buffer")])
    stream.optimizers([names])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, steps=5)
    stream.checkpoint(keys=saved, path="step-5.pt", **fields)
    return stream


PARAMETERS = ["embed.weight", "norm.weight", "norm.bias", "head.weight"]


@SCENARIOS.fires(CheckpointIncomplete, Severity.WARNING, subject="norm.running_mean", first_step=5)
def buffers_left_out() -> Stream:
    """Only parameters, and the optimizer."""
    return _with_statistics(PARAMETERS, has_optimizer=True)


@SCENARIOS.fires(CheckpointIncomplete, Severity.WARNING, subject="head.weight")
def head_left_out() -> Stream:
    """A filter took more than was meant."""
    saved = ["embed.weight", "norm.weight", "norm.bias", "norm.running_mean"]
    return _with_statistics(saved, has_optimizer=True)


@SCENARIOS.silent(CheckpointIncomplete)
def everything_saved() -> Stream:
    """All five."""
    return _with_statistics([*PARAMETERS, "norm.running_mean"], has_optimizer=True)


@SCENARIOS.silent(CheckpointIncomplete)
def parameters_exported() -> Stream:
    """Without an optimizer nobody means to go on from it."""
    return _with_statistics(PARAMETERS)


@SCENARIOS.silent(CheckpointIncomplete)
def saved_in_shards() -> Stream:
    """Each file has a part."""
    stream = _with_statistics([*PARAMETERS, "norm.running_mean"])
    stream.checkpoint(keys=PARAMETERS, path="model-1-of-2.pt", has_optimizer=True)
    return stream


@SCENARIOS.silent(CheckpointIncomplete)
def adapters_saved_with_their_optimizer() -> Stream:
    """The base is frozen; that its norm's statistics move is not the adapters' business."""
    base = ["base.weight", "base.norm.weight"]
    stream = Stream(
        [
            *(tensor(name, trainable=False) for name in base),
            tensor("base.norm.running_mean", kind="buffer"),
            "lora.a",
            "lora.b",
        ]
    )
    stream.optimizers([["lora.a", "lora.b"]])
    moving = {"lora.a": 0.1, "lora.b": 0.1, "base.norm.running_mean": 0.1, "*": 0.0}
    stream.step(values={"*": 1.0}, updates=moving, steps=5)
    stream.checkpoint(keys=["lora.a", "lora.b"], path="step-5.pt", has_optimizer=True)
    return stream


@SCENARIOS.silent(CheckpointIncomplete)
def saved_by_another_name() -> Stream:
    """An entry that could not be placed has the shape of what seems to lack."""
    return _with_statistics([*PARAMETERS, "statistics.mean"], has_optimizer=True)


def _fused(pieces: list[str]) -> Stream:
    """torchtitan's fused QKV, whose module splits it where it is saved."""
    fused = [tensor(f"layers.{layer}.qkv.wqkv.weight", shape=[3 * NUMEL]) for layer in range(2)]
    others = ["embed.weight", "layers.0.wo.weight", "layers.1.wo.weight"]
    stream = Stream([*others, *fused])
    stream.optimizers([[*others, *(one.fqn for one in fused)]])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, steps=5)
    split = [f"layers.{layer}.qkv.{piece}.weight" for layer in range(2) for piece in pieces]
    keys = [f"model.{fqn}" for fqn in (*others, *split)]
    stream.checkpoint(
        keys=keys, tensors=[0, 1, 2] + [-1] * len(split), path="step-5", has_optimizer=True
    )
    return stream


@SCENARIOS.silent(CheckpointIncomplete)
def saved_in_pieces() -> Stream:
    """Each layer's three pieces have as many elements as the tensor that the model has."""
    return _fused(["wq", "wk", "wv"])


@SCENARIOS.fires(CheckpointIncomplete, Severity.WARNING, subject="layers.0.qkv.wqkv.weight")
def pieces_left_out() -> Stream:
    """Only two of three pieces are saved."""
    return _fused(["wq", "wk"])


def _loaded(keys: list[str], missing: list[str], unexpected: list[str]) -> Stream:
    stream = Stream(WEIGHTS)
    stream.checkpoint("load", keys=keys, missing=missing, unexpected=unexpected)
    stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(LoadIncomplete, Severity.WARNING, says="passed over 6 tensors")
def layers_under_a_prefix() -> Stream:
    """The layers were compiled when they were saved, embedding and output were not."""
    layers = WEIGHTS[1:-1]
    wrapped = [f"_wrapped.{fqn}" for fqn in layers]
    return _loaded([WEIGHTS[0], *wrapped, WEIGHTS[-1]], layers, wrapped)


@SCENARIOS.silent(LoadIncomplete)
def loaded_with_another_head() -> Stream:
    """Same shape, other name: a new head instead of an old one."""
    return _loaded([*WEIGHTS[:-1], "classifier.weight"], ["output.weight"], ["classifier.weight"])


@SCENARIOS.silent(LoadIncomplete)
def loaded_completely() -> Stream:
    """Nothing is missing, something is superfluous."""
    return _loaded([*WEIGHTS, "old.output.weight"], [], ["old.output.weight"])
