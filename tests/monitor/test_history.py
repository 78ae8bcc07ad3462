"""
The history: what a view shows of frames, how ranks' parts make one row, and what is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.monitor.onlooker import onlooker
from tests.monitor.stream import Stream, digest_of, feed, tensor
from trainvitals.facts import SERIES, VALUES
from trainvitals.frame import OptimizersSeen, SlotChanged, TensorInfo, decode
from trainvitals.roles import Role
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.header import validate_header
from trainvitals_monitor.history import View
from trainvitals_monitor.history.held import Held
from trainvitals_monitor.history.rates import RatesTold
from trainvitals_monitor.history.series import WINDOW_BYTES, Window

Ask = Callable[[View], Any]


def looks(stream: Stream, ask: Ask) -> list[Any]:
    """What `ask` answers at each look that an engine makes at the stream."""
    answers: list[Any] = []
    engine = stream.engine([onlooker(lambda view: answers.append(ask(view)))])
    assert not engine.detector_failures, engine.last_failure
    return answers


def last(stream: Stream, ask: Ask) -> Any:
    """What `ask` answers at the last look."""
    return looks(stream, ask)[-1]


def box(fqn: str, offset: int, size: int, **fields: Any) -> TensorInfo:
    """A row-sharded part of a tensor of 64 elements."""
    return tensor(fqn, layout="box", offsets=[offset], sizes=[size], **fields)


# -- one rank ----------------------------------------------------------------------------------------------------------


def test_now_latest_and_window() -> None:
    """`now` knows this step only, `latest` the last look, `window` the steps so far; absent rows are no data."""
    stream = Stream(["a", "b"])
    stream.step(values={"a": 1.0, "b": 2.0})
    stream.step(values={"a": 3.0})

    def ask(view: View) -> Any:
        values, seen = view.window("norm", 8)
        return (
            view.step,
            view.now("norm").tolist(),
            view.seen("norm").tolist(),
            view.latest("norm").tolist(),
            view.last_seen("norm").tolist(),
            view.window_steps(8).tolist(),
            values.tolist(),
            seen.tolist(),
        )

    step, now, seen, latest, last_seen, steps, values, looked = looks(stream, ask)[1]
    assert step == 2
    assert now == [3.0, pytest.approx(np.nan, nan_ok=True)]
    assert seen == [True, False]
    assert latest == [3.0, 2.0]
    assert last_seen == [2, 1]
    assert steps == [1, 2]
    assert values[0] == [1.0, 2.0]
    assert looked == [[True, True], [True, False]]


def test_a_statistic_that_never_came_is_no_data() -> None:
    """Asking for it gives NaN and False; asking for what is no statistic is an error."""
    stream = Stream(["a"])
    stream.step(values={"a": 1.0})

    def ask(view: View) -> Any:
        assert np.isnan(view.now("grad_norm")).all()
        assert not view.seen("grad_norm").any()
        assert view.window("grad_norm", 4)[0].shape == (1, 1)
        with pytest.raises(KeyError, match="no series"):
            view.now("digest")
        return True

    assert last(stream, ask)


def test_views_cannot_be_written_to() -> None:
    """What is shared between detectors is read-only."""
    stream = Stream(["a"])
    stream.step(values={"a": 1.0})

    def ask(view: View) -> list[bool]:
        arrays = [
            view.now("norm"),
            view.latest("norm"),
            *view.window("norm", 2),
            view.lr,
            view.held,
        ]
        return [array.flags.writeable for array in arrays]

    assert not any(last(stream, ask))


def test_nan_that_was_computed_was_seen() -> None:
    """NaN from a look is told apart from no look."""
    stream = Stream(["a", "b"])
    stream.step(values={"a": float("nan")})
    assert last(stream, lambda view: view.seen("norm").tolist()) == [True, False]


def test_the_window_is_long_and_bounded() -> None:
    """The last 256 steps are there in order after any number of steps, and no more."""
    stream = Stream(["a"])
    for step in range(700):
        stream.step(values={"a": float(step)})

    def ask(view: View) -> Any:
        return view.window("norm", 1000)[0][:, 0].copy(), view.window_steps(1000).copy()

    for count, (values, steps) in enumerate(looks(stream, ask)[:700], start=1):
        kept = min(count, 256)
        assert len(values) == len(steps) == kept
        assert steps[-1] == count
        assert values[0] == count - kept
    assert np.array_equal(np.diff(values), np.ones(255))


def test_the_window_is_what_was_written_whoever_reads_when() -> None:
    """Whole rows, parts of rows and steps without any, read at any time or not at all: the same as without shortcuts."""
    random = np.random.default_rng(5)
    window = Window()
    window.resize(3)
    rows: list[list[float]] = []
    latest, last_seen = [np.nan] * 3, [-1] * 3
    for step in range(1, 1000):
        window.begin(step)
        rows.append([np.nan] * 3)
        for _ in range(random.integers(0, 3)):
            chosen = [0, 1, 2] if random.random() < 0.5 else [int(random.integers(0, 3))]
            given = random.random(len(chosen))
            index = slice(None) if len(chosen) == 3 else np.array(chosen)
            window.write(VALUES, index, {"norm": given})
            for tensor_index, value in zip(chosen, given.tolist(), strict=True):
                rows[-1][tensor_index] = latest[tensor_index] = value
                last_seen[tensor_index] = step
        if random.random() < 0.3:
            np.testing.assert_array_equal(window.now("norm", step), rows[-1])
        if random.random() < 0.3:
            np.testing.assert_array_equal(window.latest("norm"), latest)
            assert window.last_seen("norm").tolist() == last_seen
        if random.random() < 0.1:
            values, seen = window.last("norm", 256)
            np.testing.assert_array_equal(values, rows[-256:])
            assert seen.tolist() == (~np.isnan(rows[-256:])).tolist()


@pytest.mark.parametrize("num_tensors", [10, 2_000, 20_000, 100_000])
def test_the_window_stays_within_its_memory(num_tensors: int) -> None:
    """More tensors mean fewer steps: the arrays of all statistics stay within the bound."""
    window = Window()
    window.resize(num_tensors)
    assert window.num_rows > window.length
    assert window.num_rows * num_tensors * 8 * len(SERIES) <= WINDOW_BYTES
    assert window.length >= 8


def test_tensors_may_appear_in_the_middle() -> None:
    """A tensor that is added keeps the others' history and has none of its own before."""
    stream = Stream(["a"])
    stream.step(values={"*": 1.0}, steps=3)
    stream.flush()
    stream.add_tensor("b")
    stream.step(values={"*": 2.0})

    def ask(view: View) -> Any:
        return view.tensors.fqn, view.window("norm", 9)[1].tolist(), view.latest("norm").tolist()

    fqns, seen, latest = last(stream, ask)
    assert fqns == ["a", "b"]
    assert seen == [[True, False]] * 3 + [[True, True]]
    assert latest == [2.0, 2.0]


def test_a_row_that_changed_holds_from_the_next_step() -> None:
    """A dtype that is sent anew is the one of the next judged step, and of none before."""
    stream = Stream(["a"])
    stream.step(values={"*": 1.0})
    stream.step(values={"*": 1.0})
    stream.flush()
    stream.retensor("a", dtype="bfloat16")
    stream.step(values={"*": 1.0})
    told = looks(stream, lambda view: (view.tensors.dtype[0], int(view.tensors.float_bits[0])))
    assert told[:3] == [("float32", 32), ("float32", 32), ("bfloat16", 16)]


def test_the_tensor_table() -> None:
    """Masks, sizes and roles follow the rows."""
    stream = Stream(
        [
            tensor("layers.0.moe.expert_bias", kind="buffer", shape=[8], persistent=False),
            tensor("module.layers.1.w", dtype="bfloat16", shape=[4, 4]),
        ]
    )
    stream.step(values={"*": 1.0})

    def ask(view: View) -> Any:
        table = view.tensors
        return (
            table.fqn, table.raw_fqn, table.pattern, table.numel.tolist(), table.is_param.tolist(),
            table.trainable.tolist(), table.persistent.tolist(), table.float_bits.tolist(),
            table.mask(Role.EXPERT_BIAS, Role.LORA_A).tolist(), table.index_of("layers.1.w"),
        )  # fmt: skip

    assert last(stream, ask) == (
        ["layers.0.moe.expert_bias", "layers.1.w"], ["layers.0.moe.expert_bias", "module.layers.1.w"],
        ["layers.*.moe.expert_bias", "layers.*.w"], [8, 16], [False, True], [False, True], [False, True],
        [32, 16], [True, False], 1,
    )  # fmt: skip


def test_learning_rates_and_optimizers() -> None:
    """`lr` and `held` follow the optimizer's report and the groups' rates."""
    stream = Stream(["a", "b", "c"])
    stream.optimizers([["a"], ["c"]])
    stream.step(values={"*": 1.0}, lr=[0.1, 0.2])
    stream.step(values={"*": 1.0}, lr=[0.3, 0.4])

    def ask(view: View) -> Any:
        assert view.optimizers is not None
        return view.lr.tolist(), view.held.tolist(), view.optimizers.group_tensors

    lr, held, groups = last(stream, ask)
    assert (lr[0], lr[2], np.isnan(lr[1])) == (0.3, 0.4, True)
    assert held == [True, False, True]
    assert groups == [[0], [2]]


def test_events_are_presented_once() -> None:
    """An event is new at one look, and among the past events from then on."""
    stream = Stream(["a"])
    stream.step(values={"*": 1.0})
    stream.slot("a", "object")
    stream.step(values={"*": 1.0}, steps=2)

    def ask(view: View) -> Any:
        return len(view.events(SlotChanged)), len(view.past_events(SlotChanged))

    assert looks(stream, ask)[:3] == [(0, 0), (1, 1), (0, 1)]
    assert last(stream, lambda view: view.past_events(OptimizersSeen)) == []


def test_scalars() -> None:
    """Logged numbers are there by name, up to the step that is judged."""
    stream = Stream(["a"])
    for step in range(5):
        stream.step(values={"*": 1.0}, loss=float(step), scalars={"z": 1.0} if step == 3 else {})

    def ask(view: View) -> Any:
        steps, values = view.scalar("loss", 2)
        return view.scalar_names, steps.tolist(), values.tolist()

    answers = looks(stream, ask)
    assert answers[1] == (["loss"], [1, 2], [0.0, 1.0])
    assert answers[4] == (["loss", "z"], [4, 5], [3.0, 4.0])


def test_digests() -> None:
    """Digests are known at their step, and those of the first step that had any stay."""
    stream = Stream(["a", "b"])
    stream.step(digests={"b": 5})
    stream.step(values={"*": 1.0})
    stream.step(digests={"a": 2**64 - 1, "b": 6})

    def ask(view: View) -> Any:
        now, first = view.digests(), view.first_digests()
        assert first is not None
        told = None if now is None else (now["digest"].tolist(), now["count"].tolist())
        return told, first["digest"].tolist(), view.first_digests_step

    answers = looks(stream, ask)[:3]
    assert answers[0] == (([0, 5], [0, 64]), [0, 5], 1)
    assert answers[1][0] is None
    assert answers[2] == (([2**64 - 1, 6], [64, 64]), [0, 5], 1)


def test_a_checkpoint_has_its_rows_by_entry() -> None:
    """Entries belong to tensors, or to none; what was not measured has a count of 0."""
    stream = Stream([tensor("module.a"), "b"])
    stream.step(values={"*": 1.0})
    stream.checkpoint(
        keys=["b", "other", "module.a"], rows={"other": None, "b": {"stale_step": 0}}, path="/p"
    )

    def ask(view: View) -> Any:
        return view.new_checkpoints()

    (one,) = looks(stream, ask)[0]
    assert (one.op, one.step, one.path, one.keys) == ("save", 1, "/p", ["b", "other", "module.a"])
    assert one.tensors.tolist() == [1, -1, 0]
    assert one.rows["count"].tolist() == [64, 0, 64]
    assert one.rows["digest"].tolist() == [digest_of("b"), 0, digest_of("a")]
    assert one.rows["stale_step"].tolist() == [0, -1, -1]
    assert one.sketch(np.array([0, 2])).shape == (2, 8)


def test_live_keys_stay_beside_their_entries() -> None:
    """An entry of no tensor ("") and a tensor that is saved twice do not shift the names of the others."""
    stream = Stream(["a", "b"])
    keys, live_keys = ["x", "a", "y", "ema.a", "b"], ["", "a", "", "a", "b"]
    stream.step()
    stream.checkpoint(path="/p", keys=keys, live_keys=live_keys)
    stream.step()
    made = [one for new in looks(stream, lambda view: view.new_checkpoints()) for one in new]
    assert [(one.keys, one.live_keys) for one in made] == [(keys, live_keys)]


def test_a_checkpoint_before_the_first_step_is_in_the_first_look() -> None:
    """A load between attach and the first step is not lost, though nothing can be judged then."""
    stream = Stream(["a"], base_step=7)
    stream.flush()
    stream.checkpoint("load", path="/p")
    stream.flush()
    stream.step(values={"*": 1.0})
    stream.step(values={"*": 1.0})

    def ask(view: View) -> Any:
        return view.step, view.base_step, [one.step for one in view.new_checkpoints()]

    assert looks(stream, ask)[:2] == [(8, 7, [7]), (9, 7, [])]


# -- several ranks -----------------------------------------------------------------------------------------------------


def test_shards_add_up() -> None:
    """Norms add in squares, counts and digests add (modulo 2^64), extremes are the extreme; equal boxes count once."""
    by_rank = {
        0: [box("w", 0, 40)],
        1: [box("w", 40, 24)],
        2: [box("w", 0, 40)],
        3: [box("w", 64, 0)],
    }
    stream = Stream([], world_size=4, by_rank=by_rank)
    big = 2**64 - 3
    rank_facts: list[dict[str, Any]] = [
        {
            "values": {"w": {"norm": 3.0, "nonfinite": 2}},
            "digests": {"w": {"digest": big, "count": 40}},
        },
        {
            "values": {"w": {"norm": 4.0, "nonfinite": 1}},
            "digests": {"w": {"digest": 5, "count": 24}},
        },
        {
            "values": {"w": {"norm": 3.0, "nonfinite": 2}},
            "digests": {"w": {"digest": big, "count": 40}},
        },
        {"values": {}, "digests": {}},
    ]
    lows = [{"w": (-1.0, 2.0)}, {"w": (-7.0, 1.0)}, {"w": (-1.0, 2.0)}, {}]
    stream.step(
        by_rank={rank: {**facts, "extremes": lows[rank]} for rank, facts in enumerate(rank_facts)}
    )

    def ask(view: View) -> Any:
        digests = view.digests()
        assert digests is not None
        stats = ("norm", "nonfinite", "exact", "low", "high")
        return (
            {stat: float(view.now(stat)[0]) for stat in stats},
            digests["digest"][0],
            digests["count"][0],
        )

    values, digest, count = last(stream, ask)
    assert values == {"norm": 5.0, "nonfinite": 3.0, "exact": 1.0, "low": -7.0, "high": 2.0}
    assert (int(digest), int(count)) == (2, 64)


def test_half_a_tensor_is_no_data() -> None:
    """When a shard was not looked at, the tensor was not."""
    by_rank = {0: [box("w", 0, 32)], 1: [box("w", 32, 32)]}
    stream = Stream([], world_size=2, by_rank=by_rank)
    stream.step(values={"w": 3.0}, by_rank={1: {"values": {}}})
    stream.step(values={"w": 3.0})
    assert looks(stream, lambda view: view.seen("norm").tolist())[:2] == [[False], [True]]


def test_replicas_count_once() -> None:
    """The lowest rank that looked speaks for its replicas."""
    stream = Stream([tensor("w", layout="replica", replica_group="dp")], world_size=2)
    stream.step(values={"w": 3.0}, by_rank={1: {"values": {"w": 4.0}}})
    stream.step(values={"w": 3.0}, by_rank={0: {"values": {}}, 1: {"values": {"w": 4.0}}})
    assert [float(n[0]) for n in looks(stream, lambda view: view.now("norm").copy())[:2]] == [
        3.0,
        4.0,
    ]


def test_unknown_layouts_are_never_merged() -> None:
    """One rank, the lowest that has the tensor, speaks for a layout that is not declared; others never do."""
    stream = Stream([tensor("w", layout="unknown")], world_size=2)
    stream.step(values={"w": 3.0}, by_rank={1: {"values": {"w": 4.0}}})
    stream.step(values={}, by_rank={1: {"values": {"w": 4.0}}})
    told = looks(stream, lambda view: (view.seen("norm").tolist(), view.now("norm").tolist()))
    assert told[0] == ([True], [3.0])
    assert told[1][0] == [False]


def test_layouts_that_contradict_each_other_are_not_merged() -> None:
    """A tensor that is whole on one rank and a shard on another is known from the lowest rank only."""
    stream = Stream([], world_size=2, by_rank={0: [tensor("w")], 1: [box("w", 0, 32)]})
    stream.step(values={"w": 3.0})
    assert last(stream, lambda view: view.now("norm").tolist()) == [3.0]


def test_ranks_may_hold_different_tensors() -> None:
    """Pipeline stages: the table is the union by FQN, indices in events are the table's, groups are joined."""
    by_rank = {0: ["a", "b"], 1: ["c", "b"]}
    stream = Stream([], world_size=2, by_rank=by_rank)
    stream._waiting += [
        (
            rank,
            OptimizersSeen(
                step=1,
                optimizers=["SGD"],
                group_optimizer=[0],
                group_tensors=[[stream.index(fqn, rank)]],
            ),
        )
        for rank, fqn in ((0, "a"), (1, "c"))
    ]
    stream.step(values={"*": 1.0}, lr=0.5, by_rank={1: {"values": {"*": 2.0}}})
    stream.slot("c", "object", rank=1)
    stream.step(values={"*": 1.0})

    def ask(view: View) -> Any:
        names = view.tensors.fqn
        changed = [(at.rank, names[at.event.tensor]) for at in view.events(SlotChanged)]
        assert view.optimizers is not None
        groups = [[names[i] for i in group] for group in view.optimizers.group_tensors]
        norms = dict(zip(names, view.now("norm").tolist(), strict=True))
        return norms, changed, groups, {names[i] for i in np.flatnonzero(view.held)}

    answers = looks(stream, ask)
    assert answers[0][0] == {"a": 1.0, "b": 1.0, "c": 2.0}
    assert answers[1][1:] == ([(1, "c")], [["a"], ["c"]], {"a", "c"})


def test_a_sharded_checkpoint_is_one() -> None:
    """Reports of one save by all ranks are one checkpoint whose digests are those of the full tensors."""
    by_rank = {rank: [box("w", 32 * rank, 32), tensor("b", layout="replica")] for rank in range(2)}
    stream = Stream([], world_size=2, by_rank=by_rank)
    stream.step(values={"*": 1.0})
    part = {"digest": 2**63 + 5, "live_digest": 2**63 + 5, "count": 32, "square_sum": 0.5}
    stream.checkpoint(path="/dcp", api="dcp.save", ranks=(0, 1), rows={"w": part})
    stream.step(values={"*": 1.0})
    made = [one for new in looks(stream, lambda view: view.new_checkpoints()) for one in new]
    assert len(made) == 1
    assert made[0].ranks == (0, 1)
    assert made[0].rows["digest"].tolist() == [10, digest_of("b")]
    assert made[0].rows["count"].tolist() == [64, 64]
    assert made[0].rows["square_sum"].tolist() == [1.0, 1.0]
    assert made[0].rows["stale_step"].tolist() == [-1, -1]


def test_a_rank_that_names_nothing_may_join_late() -> None:
    """It holds no part of anything, and its report of a save is merged with the others'."""
    stream = Stream([], world_size=2, by_rank={0: ["w"]})
    for _ in range(300):
        stream.step(values={"*": 1.0})
    stream.checkpoint(ranks=(0, 1), rows={"w": {"square_sum": 4.0}})
    stream.step(values={"*": 1.0})
    stream.flush()
    stream.frames.sort(key=lambda frame: int(decode(frame)[0]["rank"]))
    saves = [save for found in looks(stream, lambda view: view.new_checkpoints()) for save in found]
    assert [save.ranks for save in saves] == [(0, 1)]
    assert saves[0].rows["square_sum"].tolist() == [4.0]


def test_what_ranks_said_once_is_forgotten() -> None:
    """A buffer of another shape at each step: few of the shapes stay known, and holders of parts are told apart."""
    kept = tensor("kept", kind="buffer", layout="unknown", offsets=[0], sizes=[1], shape=[1])
    own = {rank: [box("w", rank, 1, shape=[2]), kept] for rank in range(2)}
    stream = Stream([], world_size=2, by_rank=own)
    for step in range(1, 301):
        stream.retensor("kept", shape=[step], sizes=[step])
        stream.step(values={"*": 3.0}, gradients={"kept": 1.0})
    stream.flush()
    found = looks(stream, lambda view: (*view.now("norm"), view.now("grad_replicas")[1]))
    assert np.allclose(found, [np.sqrt(18), 3.0, 2.0], rtol=1e-12)
    attempt = stream.engine([]).history.current
    assert attempt is not None
    assert len(attempt.ranks.holdings) <= 65


def test_scalars_of_ranks_are_the_largest() -> None:
    """NaN on one rank is NaN of the run."""
    stream = Stream(["a"], world_size=2)
    stream.step(values={"*": 1.0})
    stream._rows(0, "scalars", scalar=0, step=1, value=1.0)
    stream._rows(1, "scalars", scalar=0, step=1, value=float("nan"))
    stream._scalars.append("loss")
    assert np.isnan(last(stream, lambda view: view.scalar("loss", 1)[1])).tolist() == [True]


# -- attempts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False])
def test_what_an_attempt_leaves_to_the_next(closed: bool) -> None:
    """`previous` has the last values, the last save and its names, also of an attempt that was killed."""
    stream = Stream([tensor("module.a"), "b"])
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/1")
    stream.step(values={"a": 5.0})
    stream.checkpoint("load", path="/0")
    stream.restart(closed=closed)
    stream.step(values={"*": 1.0})

    def ask(view: View) -> Any:
        return view.attempt, view.previous

    answers = looks(stream, ask)
    assert answers[0] == ("attempt-1", None)
    attempt, previous = answers[-1]
    assert attempt == "attempt-2"
    assert previous is not None
    assert (previous.attempt, previous.last_step, previous.tensors) == (
        "attempt-1",
        2,
        {"a": 0, "b": 1},
    )
    assert previous.values["norm"] == {"a": 5.0, "b": 1.0}
    assert previous.last_save is not None
    assert (previous.last_save.path, previous.last_save_fqns) == ("/1", ["a", "b"])
    assert previous.saved_keys == {"module.a", "b"}
    assert [one.path for one in previous.last_checkpoints] == ["/1", "/0"]


def test_a_save_survives_an_attempt_that_made_none() -> None:
    """The last save may be older than the attempt before this one."""
    stream = Stream(["a"])
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/1")
    for _ in range(3):
        stream.restart()
        stream.step(values={"*": 1.0})

    def ask(view: View) -> Any:
        return view.previous and (view.previous.last_save_attempt, view.previous.last_save)

    name, save = last(stream, ask)
    assert (name, save.path) == ("attempt-1", "/1")


def test_old_attempts_are_let_go() -> None:
    """Only the last attempts' windows are kept; frames of an older one are of no use any more."""
    stream = Stream(["a"])
    for _ in range(5):
        stream.step(values={"*": 1.0})
        stream.restart()
    stream.step(values={"*": 1.0})
    stream.flush()
    engine = Engine("run", [])
    feed(engine, stream.frames)
    assert [attempt.key for attempt in engine.history.attempts] == ["attempt-5", "attempt-6"]
    assert engine.summary()["attempts"] == 6


def test_a_heartbeat_makes_no_step() -> None:
    """Frames without facts complete steps and make none."""
    stream = Stream(["a"])
    stream.step(values={"*": 1.0})
    stream.flush()
    stream.now = 9
    stream._send(0, "idle", always=True)
    assert looks(stream, lambda view: view.step) == [1, 1]


def test_cached_values_live_until_the_table_changes() -> None:
    """`cached` makes a value once, and anew when the tensor table has changed."""
    made: list[int] = []
    stream = Stream(["a"])
    stream.step(values={"*": 1.0}, steps=3)
    stream.flush()
    stream.add_tensor("b")
    stream.step(values={"*": 1.0}, steps=2)
    looks(stream, lambda view: view.cached("key", lambda: made.append(view.num_tensors)))
    assert made == [1, 2]


def test_of_ranks_that_hold_the_same_the_lowest_is_asked() -> None:
    """Whatever the order in which they speak; a rank that holds something else is asked for that."""
    held = Held()
    seen = OptimizersSeen(step=1, optimizers=["SGD"], group_optimizer=[0], group_tensors=[[0, 1]])
    other = replace(seen, group_tensors=[[1, 2]])
    for rank, told, rate in ((3, other, 0.3), (2, seen, 0.2), (1, seen, 0.1)):
        held.saw(rank, told)
        held.rates({rank: RatesTold(np.array([0]), np.array([rate]), np.array([0.0]))}, 1)
    assert held.lr(4).tolist()[:3] == [0.1, 0.1, 0.3]
    assert held.mask(4).tolist() == [True, True, True, False]
    held.saw(0, seen)  # and has not said its rates yet
    assert held.lr(4).tolist()[:3] == [0.1, 0.1, 0.3]
    held.rates({0: RatesTold(np.array([0]), np.array([0.05]), np.array([0.0]))}, 2)
    assert held.lr(4).tolist()[:3] == [0.05, 0.05, 0.3]


def test_ranks_that_were_told_other_rates_part() -> None:
    """They share what is remembered only as long as they were told the same."""
    held = Held()
    seen = OptimizersSeen(step=1, optimizers=["SGD"], group_optimizer=[0], group_tensors=[[0]])
    other = replace(seen, group_tensors=[[1]])
    for rank, said in ((0, seen), (1, other)):
        held.saw(rank, said)

    def told(rate: float) -> RatesTold:
        return RatesTold(np.array([0]), np.array([rate]), np.array([0.5]))

    held.rates({0: told(0.1), 1: told(0.1)}, 1)
    held.rates({0: told(0.1), 1: told(0.4)}, 2)
    held.rates({1: told(0.2)}, 3)
    assert held.lr(2).tolist() == [0.1, 0.2]
    assert held.peak_lr(2).tolist() == [0.1, 0.4]
    assert held.decayed(2, 3) == pytest.approx([0.15, 0.35])


def test_what_training_started_from_is_known_however_frames_are_cut() -> None:
    """Frames may say that nothing is done yet before the state to start from is read, and tell of it bit by bit."""
    stream = Stream(["a", "b"])
    stream.beginning(digests={"*": 7}, begun={"*": 0.1})
    stream.optimizers([["a", "b"]])
    stream.step(values={"*": 1.0})
    stream.flush()
    (header, tables), (step_header, step_tables) = map(decode, stream.frames)
    digests = tables.pop("digests")
    bits = [{name: column[i : i + 1] for name, column in digests.items()} for i in (0, 1)]
    for parts in (
        [{**tables, "digests": digests, **step_tables}],
        [{}, {"digests": bits[0]}, {"digests": bits[1]}, tables, step_tables],
    ):
        engine = Engine("run")
        for seq, part in enumerate(parts, 1):
            ended = {} if part is parts[-1] else {"complete_through": 0, "events": []}
            named = {"tensors": header["tensors"] if seq == 1 else []}
            engine.ingest(validate_header({**step_header, "seq": seq, **named, **ended}), part)
        attempt = engine.history.current
        assert attempt is not None
        assert attempt.judged_steps == 2
        first, begun = attempt.digests.first(2), attempt.beginning.columns(2)
        assert first is not None
        assert begun is not None
        assert (attempt.digests.first_step, first["digest"].tolist()) == (0, [7, 7])
        assert begun["read"].all()


def test_what_became_of_a_tensor_before_the_first_step_is_what_training_started_from() -> None:
    """Megatron casts its router's bias back to float32 in the first forward, long after the tensor table was sent."""
    bias = "router.expert_bias"
    stream = Stream([tensor(bias, kind="buffer", dtype="bfloat16")])
    stream.beginning(digests={"*": 7}, begun={"*": 0.1})
    stream.step(values={"*": 1.0})
    stream.flush()
    (header, tables), (step_header, step_tables) = map(decode, stream.frames)
    mended = [{**header["tensors"][0], "dtype": "float32"}]
    nothing = {**header, "complete_through": 0, "events": []}
    engine = Engine("run")
    engine.ingest(validate_header(nothing), {})
    engine.ingest(
        validate_header({**step_header, "seq": 2, "tensors": mended}), {**tables, **step_tables}
    )
    assert engine.history.current is not None
    assert engine.history.current.judged_steps == 2
    assert engine.findings == []


@pytest.mark.parametrize("at_once", [False, True], ids=["a frame a step", "one frame"])
def test_a_row_of_the_table_holds_from_its_events_step_on(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """However many steps are in the frame that brings it; also where it is again what it was in the end."""
    stream = Stream([tensor("cache", shape=[8]), "w"])
    stream.step(values={"*": 1.0})
    stream.flush()
    if at_once:
        monkeypatch.setattr(stream, "_send", lambda *_, **__: None)
    for length in (8, 12, 12, 16, 8):
        stream.flush()
        if length != stream.infos[0][0].shape[0]:
            stream.slot("cache", "storage", "shape")
            stream.retensor("cache", shape=[length])
        stream.step(values={"*": 1.0})
    monkeypatch.undo()
    stream.flush()
    shapes = looks(stream, lambda view: view.tensors.shape[0])
    assert shapes[:6] == [(8,), (8,), (12,), (12,), (16,), (8,)]
