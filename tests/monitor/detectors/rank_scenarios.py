"""
Runs for the detectors of several ranks.
"""

from __future__ import annotations

from typing import Any

from tests.monitor.detectors.scenario import Scenarios
from tests.monitor.stream import Stream, digest_of, tensor
from trainvitals.frame import TensorInfo
from trainvitals_monitor.detectors.replica_divergence import ReplicaDivergence
from trainvitals_monitor.detectors.replicas_fed_same_batch import ReplicasFedSameBatch
from trainvitals_monitor.findings import Severity

SCENARIOS = Scenarios()

NAMES = ("a", "b")


def _replica(fqn: str, **fields: Any) -> TensorInfo:
    return tensor(fqn, layout="replica", sizes=[64], offsets=[0], replica_group="0-1", **fields)


def _plain(fqn: str) -> TensorInfo:
    return tensor(fqn, layout="unknown", sizes=[64], offsets=[0])


def _matrix(fqn: str) -> TensorInfo:
    return tensor(fqn, shape=[8, 8], layout="unknown", sizes=[8, 8], offsets=[0, 0])


def _told(step: int, fqn: str, apart: bool, distance: float) -> dict[str, Any]:
    digest = digest_of(fqn, step if not apart else -step)
    return {"digest": digest, "sketch_0": distance * 8**0.5 if apart else 0.0}


def _ranks(
    tensors: list[TensorInfo],
    apart_from: dict[str, int],
    *,
    steps: int = 12,
    distance: float = 0.1,
    grows: float = 0.0,
    spread: float = 0.0,
    unsynced: bool = False,
    averaged_every: int = 1 << 30,
    held_by: dict[int, list[str]] | None = None,
) -> Stream:
    """Two ranks whose tensors part at these steps; `spread`: of rank 1's gradients; `held_by`: if not all by both."""
    stream = Stream(tensors, world_size=2)
    names = [one.fqn for one in tensors]
    trained = [one.fqn for one in tensors if one.kind == "param"]
    for rank in (0, 1):
        stream.optimizers([trained if held_by is None else held_by[rank]], rank=rank)
    for step in range(1, steps + 1):
        size = distance * (1 + grows * (step % averaged_every))
        digests = {
            rank: {
                name: _told(step, name, rank == 1 and step >= apart_from.get(name, steps + 1), size)
                for name in names
            }
            for rank in (0, 1)
        }
        stream.inputs(unsynced=unsynced)
        stream.step(
            updates={"*": 0.01},
            gradients={"*": 1.0 + 0.1 * step},
            digests=digests[0],
            lr=1e-3,
            by_rank={
                1: {"digests": digests[1], "gradients": {"*": (1.0 + 0.1 * step) * (1 + spread)}}
            },
        )
    return stream


@SCENARIOS.fires(ReplicaDivergence, Severity.CRITICAL, subject="a", first_step=5, says="rank 1")
def replicas_that_part() -> Stream:
    """Declared replicas, equal up to step 4."""
    return _ranks([_replica("a"), _replica("b")], {"a": 5})


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, first_step=1, says="norms differ")
def only_gradients_differ() -> Stream:
    """Weights are kept equal by other means."""
    return _ranks([_replica("a"), _replica("b")], {}, spread=0.2)


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, first_step=2)
def never_averaged_without_sync() -> Stream:
    """Within no_sync() for 80 steps, ever further apart."""
    return _ranks([_replica("a")], {"a": 2}, steps=80, grows=0.1, unsynced=True)


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, subject="a", first_step=8)
def one_plain_parameter_parts() -> Stream:
    """Nobody declared replicas; all were equal while they moved, and one is so no more."""
    return _ranks([_plain("a"), _plain("b")], {"a": 8})


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, says="same gradients")
def plain_models_with_one_gradient() -> Stream:
    """Different weights from the start, and exactly the same gradients."""
    return _ranks([_plain("a"), _plain("b")], {"a": 1, "b": 1})


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, subject="a.expert_bias")
def expert_bias_of_each_rank() -> Stream:
    """Updated from what one rank has seen."""
    return _ranks([_replica("w"), _replica("a.expert_bias", kind="buffer")], {"a.expert_bias": 2})


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, subject="norm.weight", first_step=1)
def norms_left_out_from_the_first_step() -> Stream:
    """Each matrix is equal on all ranks, so that nothing is sharded here; the norm never was."""
    return _ranks(
        [_matrix("a"), _matrix("b"), _plain("norm.weight")], {"norm.weight": 1}, spread=0.3
    )


@SCENARIOS.silent(ReplicaDivergence)
def biases_of_sharded_matrices() -> Stream:
    """Tensor parallel: one matrix is each rank's own part, and its bias, at 0 on all ranks at first, too."""
    return _ranks([_matrix("a"), _matrix("b"), _plain("b.bias")], {"b": 1, "b.bias": 1}, spread=0.3)


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, subject="vq._codebook.embed", first_step=2)
def codebook_of_each_rank() -> Stream:
    """In buffers that nobody sends around, and further apart than updates are long."""
    return _codebook(distance=0.2)


@SCENARIOS.silent(ReplicaDivergence)
def codebook_sent_to_all_at_each_forward() -> Stream:
    """Rank 0's is everybody's before each step; after it they are one update apart."""
    return _codebook(distance=0.01)


def _codebook(*, distance: float) -> Stream:
    embed = _replica("vq._codebook.embed", kind="buffer")
    stream = Stream([_replica("w"), embed], world_size=2)
    stream.optimizers([["w"]])
    for step in range(1, 13):
        told = {
            rank: {embed.fqn: _told(step, embed.fqn, rank == 1 and step > 1, distance)}
            for rank in (0, 1)
        }
        stream.step(
            values={"*": 1.0},
            updates={"*": 0.01},
            digests=told[0],
            by_rank={1: {"digests": told[1]}},
        )
    return stream


def _frequencies(distance: float) -> Stream:
    rotary = _replica("rotary.inv_freq", kind="buffer", persistent=False)
    return _ranks([_replica("w"), rotary], {rotary.fqn: 1}, distance=distance)


@SCENARIOS.fires(ReplicaDivergence, Severity.WARNING, subject="rotary.inv_freq", says="frequencies")
def rotary_frequencies_as_memory_had_them() -> Stream:
    """Rank 0 computed them, rank 1 was made on the meta device."""
    return _frequencies(1.0)


@SCENARIOS.silent(ReplicaDivergence)
def rotary_base_follows_each_ranks_sequences() -> Stream:
    """Dynamic scaling: the highest frequency stays 1."""
    return _frequencies(0.1)


@SCENARIOS.silent(ReplicaDivergence)
def each_rank_steps_its_share() -> Stream:
    """ZeRO by hand: what the other rank stepped is broadcast after the look."""
    return _ranks(
        [_replica("a"), _replica("b")], {"a": 1, "b": 1}, held_by={0: ["a"], 1: ["b"]}, steps=80
    )


@SCENARIOS.silent(ReplicaDivergence)
def each_rank_steps_its_share_of_plain_models() -> Stream:
    """The same where nobody declared replicas."""
    return _ranks([_plain("a"), _plain("b")], {"a": 1, "b": 1}, held_by={0: ["a"], 1: ["b"]})


@SCENARIOS.silent(ReplicaDivergence)
def replicas_that_agree() -> Stream:
    """Ordinary DDP."""
    return _ranks([_replica("a"), _replica("b")], {})


@SCENARIOS.silent(ReplicaDivergence)
def statistics_of_each_rank() -> Stream:
    """Running statistics may differ."""
    norm = _replica("bn.running_mean", kind="buffer")
    return _ranks(
        [_replica("a"), norm, _replica("queue", kind="buffer")], {norm.fqn: 1, "queue": 3}
    )


@SCENARIOS.silent(ReplicaDivergence)
def rounding_of_unlike_machines() -> Stream:
    """A few ulps."""
    return _ranks([_replica("a")], {"a": 2}, distance=1e-7)


@SCENARIOS.silent(ReplicaDivergence)
def averaged_after_some_steps() -> Stream:
    """Local SGD within no_sync(): never equal at a look, but the distance falls."""
    return _ranks([_replica("a")], {"a": 1}, steps=100, grows=1.0, unsynced=True, averaged_every=8)


@SCENARIOS.silent(ReplicaDivergence)
def plain_models_of_their_own() -> Stream:
    """Experts of each rank, or pipeline stages with equal names: nobody said that they are equal."""
    return _ranks([_plain("a"), _plain("b")], {"a": 1}, steps=100, grows=0.1, spread=0.3)


@SCENARIOS.silent(ReplicaDivergence)
def all_plain_parameters_part() -> Stream:
    """Reduced at first, local steps with an average now and then from there on."""
    return _ranks(
        [_plain("a"), _plain("b")], {"a": 10, "b": 10}, steps=100, grows=1.0, averaged_every=16,
        spread=0.1,
    )  # fmt: skip


def _fed(*, differs: bool = False, changes: bool = True, group: tuple[int, int] = (0, 2)) -> Stream:
    stream = Stream([_replica("a")], world_size=2)
    for step in range(1, 21):
        batch = 100 + step * changes
        stream.inputs({0: batch, 1: batch + 1000 * differs}, group=group)
        stream.step(values={"*": 1.0})
    return stream


@SCENARIOS.fires(ReplicasFedSameBatch, Severity.WARNING, first_step=1, says="All 2")
def one_batch_for_all_ranks() -> Stream:
    """Another one at each step."""
    return _fed()


@SCENARIOS.silent(ReplicasFedSameBatch)
def each_rank_has_its_batch() -> Stream:
    """A distributed sampler."""
    return _fed(differs=True)


@SCENARIOS.silent(ReplicasFedSameBatch)
def one_batch_for_ever() -> Stream:
    """Overfitting one batch, or a benchmark: nothing changes."""
    return _fed(changes=False)


@SCENARIOS.silent(ReplicasFedSameBatch)
def tensor_parallel_ranks() -> Stream:
    """Each is a data parallel group by itself."""
    return _fed(group=(0, 1))
