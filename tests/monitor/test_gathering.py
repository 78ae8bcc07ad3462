"""
Ranks' rows are merged as they come: what comes of it is the same to the bit in whatever order they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tests.monitor.onlooker import onlooker
from tests.monitor.stream import Stream, feed, tensor
from trainvitals.frame import Frame, TensorInfo, decode, encode
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.history import View

RANKS, SHARDS, STEPS = 40, 20, 4
STATS = (
    "norm", "nonfinite", "grad_norm", "grad_replicas", "grad_spread", "grad_apart", "replicas", "replicas_apart",
    "replica_apart", "replica_like", "replica_distance",
)  # fmt: skip
NAMES = ("sharded", "twice", "same", "plain")
APART = 23


def _infos(rank: int) -> list[TensorInfo]:
    """A tensor of which each rank has a part, one with two holders of each part, a replica, an undeclared one."""
    shard = rank % SHARDS
    return [
        tensor("sharded", shape=[RANKS], layout="box", offsets=[rank], sizes=[1]),
        tensor(
            "twice",
            shape=[SHARDS],
            layout="box",
            offsets=[shard],
            sizes=[1],
            replica_group=f"{shard},{shard + SHARDS}",
        ),
        tensor("same", layout="replica", sizes=[64], offsets=[0], replica_group="all"),
        tensor("plain", layout="unknown", sizes=[64], offsets=[0]),
    ]


def _gradient(rank: int, step: int, name: str) -> float:
    if name == "same":
        return 1.5 if rank == APART and step > 1 else 1.0
    return float(np.random.default_rng([rank, step]).exponential())


def _stream() -> Stream:
    stream = Stream([], world_size=RANKS, by_rank={rank: _infos(rank) for rank in range(RANKS)})
    for step in range(1, STEPS + 1):
        stream.step(
            by_rank={
                rank: {
                    # In step 3 the lower holder of each part of `twice` tells nothing of it, nor rank 0 of the replica.
                    "values": {
                        name: 0.1 + _gradient(rank, step, "")
                        for name in NAMES
                        if step != 3
                        or not (
                            (name == "twice" and rank < SHARDS) or (name == "same" and rank == 0)
                        )
                    },
                    "gradients": {name: _gradient(rank, step, name) for name in NAMES},
                    "digests": {"same": {"digest": 7 + (rank == APART and step > 2), "count": 64}},
                }
                for rank in range(RANKS)
            },
            loss=2.0,
            lr=1e-3,
        )
    stream.flush()
    return stream


def _seen(frames: Iterable[bytes]) -> dict[int, dict[str, Any]]:
    """By step, the bytes of all that a view shows at the last look at it."""
    found: dict[int, dict[str, Any]] = {}

    def see(view: View) -> None:
        order = np.array([view.tensors.index_of(name) for name in NAMES], np.int64)
        found[view.step] = {
            **{stat: view.now(stat)[order].tobytes() for stat in STATS},
            "lr": view.lr[order].tobytes(),
        }

    engine = Engine("run", [onlooker(see)])
    feed(engine, frames)
    engine.finish()
    assert not engine.detector_failures, engine.last_failure
    return found


STREAM = _stream()
EXPECTED = _seen(STREAM.frames)


def _value(step: int, stat: str, name: str) -> float:
    return float(np.frombuffer(EXPECTED[step][stat])[NAMES.index(name)])


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_frames_changes_nothing(seed: int) -> None:
    """Ranks in any order, some of them steps ahead of others."""
    order = np.random.default_rng(seed).permutation(len(STREAM.frames))
    assert _seen([STREAM.frames[i] for i in order]) == EXPECTED


def test_ranks_backwards() -> None:
    """The highest rank first, step by step: parts are named by who comes later."""
    frames = np.array(STREAM.frames, object).reshape(-1, RANKS)[:, ::-1].ravel()
    assert _seen(frames) == EXPECTED


def test_rows_that_come_late_join_a_block_that_was_added_up() -> None:
    """A rank says more of a step that it had promised, before the others are there or after all."""
    plain, _ = decode(STREAM.frames[-RANKS + 3])
    header = {**plain, "seq": plain["seq"] + 1, "events": [], "tensors": []}
    rows = {
        "tensor": np.array([0]),
        "step": np.array([STEPS]),
        "norm": np.array([100.0]),
        "nonfinite": np.array([0]),
        "exact": np.array([1]),
    }
    late = encode(Frame(header=validate_header(header), tables={"values": rows}))
    at_once = [*STREAM.frames[: -RANKS + 4], late, *STREAM.frames[-RANKS + 4 :]]
    found = _seen(at_once)
    assert found == _seen([*STREAM.frames, late])
    norms = [0.1 + _gradient(rank, STEPS, "") for rank in range(RANKS)]
    norms[3] = 100.0
    seen = float(np.frombuffer(found[STEPS]["norm"])[0])
    assert seen == pytest.approx(np.linalg.norm(norms), rel=1e-14)


def test_what_the_parts_come_to() -> None:
    """Of a part with two holders the lower one counts, the other where that one told nothing."""
    own = {
        (rank, step): 0.1 + _gradient(rank, step, "") for rank in range(RANKS) for step in (2, 3)
    }
    for step in (2, 3):
        parts = [own[rank, step] for rank in range(RANKS)]
        assert _value(step, "norm", "sharded") == pytest.approx(np.linalg.norm(parts), rel=1e-14)
        assert _value(step, "norm", "plain") == pytest.approx(parts[0], rel=1e-15)
    low, high = ([own[r, s] for r in ranks] for s, ranks in ((2, range(SHARDS)), (3, range(SHARDS, RANKS))))  # fmt: skip
    assert _value(2, "norm", "twice") == pytest.approx(np.linalg.norm(low), rel=1e-14)
    assert _value(3, "norm", "twice") == pytest.approx(np.linalg.norm(high), rel=1e-14)
    assert _value(2, "norm", "same") == pytest.approx(own[0, 2], rel=1e-15)
    assert _value(3, "norm", "same") == pytest.approx(own[1, 3], rel=1e-15)


def test_what_holders_of_the_same_say() -> None:
    """The range of their gradients' norms, who is the first to differ, and whose bits are not those of most."""
    assert [_value(step, "grad_apart", "same") for step in range(1, 5)] == [-1, APART, APART, APART]
    assert _value(2, "grad_spread", "same") == pytest.approx(0.5 / 1.5)
    assert _value(2, "grad_replicas", "same") == RANKS
    for step in (1, 2, 3):
        pairs = [
            [_gradient(rank, step, "") for rank in (shard, shard + SHARDS)]
            for shard in range(SHARDS)
        ]
        spread = max((max(pair) - min(pair)) / max(pair) for pair in pairs)
        assert _value(step, "grad_spread", "twice") == pytest.approx(spread, rel=1e-14)
        assert _value(step, "grad_apart", "twice") == SHARDS
    assert [_value(step, "replica_apart", "same") for step in range(1, 5)] == [-1, -1, APART, APART]
    assert [_value(step, "replicas_apart", "same") for step in range(1, 5)] == [0, 0, 1, 1]
    assert _value(3, "replica_like", "same") == 0
