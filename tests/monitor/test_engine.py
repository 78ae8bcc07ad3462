"""
The engine: when detectors look, what becomes of their claims, and that no order of frames changes a finding.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tests.monitor.onlooker import onlooker
from tests.monitor.stream import Stream, feed, tensor
from trainvitals.contract import Contract
from trainvitals.facts import DIGESTS
from trainvitals.frame import SlotChanged, decode
from trainvitals_monitor import engine as engine_module
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity, Status
from trainvitals_monitor.header import RunConflict, validate_header
from trainvitals_monitor.history import View


class _Test(Detector):
    """What the detectors of these tests share."""

    family = "numbers"
    severity = Severity.WARNING
    summary = "for tests"
    reads = ("norm",)
    alert = Alert(summary="for tests")


class Large(_Test):
    """Claims every tensor whose norm is above 10 now."""

    name = "large"
    resolve_after = 3

    def look(self, view: View) -> Iterable[Claim]:
        """The claims."""
        tensors = np.flatnonzero(view.now("norm") > 10)
        if len(tensors):
            yield Claim(
                tensors=tensors,
                message="{fqn} is {norm:.1f} in step {step}, as are {count} tensors.",
                advice="Look.",
                evidence={
                    "norm": view.now("norm")[tensors],
                    "step": np.full(len(tensors), view.step),
                },
                last_good_step=view.step - 1,
            )


class Replaced(_Test):
    """Claims tensors whose slot changed, from the events alone."""

    name = "replaced"
    severity = Severity.CRITICAL
    reads = ("SlotChanged",)
    resolve_after = None

    def look(self, view: View) -> Iterator[Claim]:
        """The claims."""
        for at in view.events(SlotChanged):
            yield Claim(
                tensors=np.array([at.event.tensor]),
                message="{fqn} was replaced.",
                advice="Do not.",
                evidence={"rank": at.rank, "before": at.event.before},
                first_step=at.event.step,
            )


class BadSave(_Test):
    """Claims a save whose entries are not the live ones, once for the run."""

    name = "bad-save"
    family = "checkpoint"
    resolve_after = None

    def look(self, view: View) -> Iterator[Claim]:
        """The claims."""
        for one in view.new_checkpoints():
            wrong = (one.rows["digest"] != one.rows["live_digest"]) & (one.rows["count"] > 0)
            if wrong.any():
                yield Claim(
                    tensors=one.tensors[wrong],
                    message="{fqn} is not the live one.",
                    advice="Save again.",
                    first_step=one.step,
                    key=one.path,
                )


class Broken(_Test):
    """Raises."""

    name = "broken"

    def look(self, view: View) -> Iterable[Claim]:
        """Raises."""
        raise RuntimeError("no")


class BadMessage(_Test):
    """Asks for evidence that it does not give."""

    name = "bad-message"

    def look(self, view: View) -> Iterable[Claim]:
        """The claim."""
        return [Claim(message="{nothing} is there.", advice="")]


ALL = (Large, Replaced, BadSave)
LAYERS = [f"layers.{i}.w" for i in range(4)]


def only(findings: list[Finding]) -> Finding:
    """The one finding that there is."""
    assert len(findings) == 1, findings
    return findings[0]


def test_layers_with_one_fault_are_one_finding() -> None:
    """Tensors that share a pattern are subjects of one finding, first wrong first, with a message made of its evidence."""
    stream = Stream(LAYERS)
    stream.step(values={"*": 1.0})
    stream.step(values={"*": 1.0, "layers.2.w": 20.0})
    stream.step(values={"*": 30.0})
    found = only(stream.findings(ALL))
    assert found.subjects == ["layers.2.w", "layers.0.w", "layers.1.w", "layers.3.w"]
    assert (found.first_step, found.last_good_step, found.last_step) == (2, 1, 3)
    assert found.group == "layers.*.w"
    assert found.message == "layers.2.w is 20.0 in step 2, as are 4 tensors."
    assert found.evidence[0] == {"fqn": "layers.2.w", "norm": 20.0, "step": 2}
    assert found.status is Status.OPEN
    assert found.severity is Severity.WARNING


def test_what_is_claimed_together_is_one_finding() -> None:
    """New tensors of one claim are one group, named by what their patterns share; what comes later has its own."""
    names = ["layers.0.mlp.w1", "layers.1.mlp.w1", "layers.0.attention.w1", "head"]
    stream = Stream(names)
    stream.step(values={**dict.fromkeys(names[:3], 20.0), "head": 1.0})
    stream.step(values={"*": 20.0})
    first, second = stream.findings(ALL)
    assert (first.group, first.subjects) == ("layers.*.w1", names[:3])
    assert (second.group, second.subjects, second.first_step) == ("head", ["head"], 2)


def test_a_group_is_joined_by_what_its_name_covers() -> None:
    """A tensor of another pattern that the group's name fits joins the finding, whose id stays what it was."""
    names = ["layers.0.mlp.w1", "layers.0.attention.w1", "layers.0.router.w1"]
    stream = Stream(names)
    stream.step(values={**dict.fromkeys(names[:2], 20.0), names[2]: 1.0})
    before = only(stream.findings(ALL))
    stream.step(values={"*": 20.0})
    after = only(stream.findings(ALL))
    assert (after.id, after.subjects) == (before.id, names)


def test_a_finding_is_resolved_after_silence_and_opened_again_under_its_id() -> None:
    """A finding closes `resolve_after` steps after the last claim; the same fault later is the same finding."""
    stream = Stream(["w"])
    stream.step(values={"*": 20.0})
    stream.step(values={"*": 1.0}, steps=2)
    assert only(stream.findings(ALL)).status is Status.OPEN
    stream.step(values={"*": 1.0})
    resolved = only(stream.findings(ALL))
    assert (resolved.status, resolved.last_step) == (Status.RESOLVED, 1)
    stream.step(values={"*": 20.0})
    again = only(stream.findings(ALL))
    assert (again.status, again.id, again.first_step, again.last_step) == (
        Status.OPEN,
        resolved.id,
        1,
        5,
    )


def test_silence_without_a_look_resolves_nothing() -> None:
    """A tensor that is not looked at any more may still be wrong."""
    stream = Stream(["w", "v"])
    stream.step(values={"*": 20.0})
    stream.step(values={"v": 1.0}, steps=9)
    found = only(stream.findings(ALL))
    assert (found.subjects, found.status) == (["w", "v"], Status.OPEN)
    stream.step(values={"*": 1.0}, steps=9)
    assert only(stream.findings(ALL)).status is Status.RESOLVED


def test_steps_are_told_in_the_trainers_numbers() -> None:
    """first_step, last_step, evidence and message follow the trainer's count, also when it becomes known later."""
    stream = Stream(["w"], base_step=10)
    stream.step(values={"*": 20.0})
    stream.flush()
    stream.step_offset = 100
    stream.step(values={"*": 20.0})
    found = only(stream.findings(ALL))
    assert (found.first_step, found.last_good_step, found.last_step) == (111, 110, 112)
    assert found.message == "w is 20.0 in step 111, as are 1 tensors."
    assert found.evidence[0]["step"] == 111


def test_a_contract_silences_what_it_ignores() -> None:
    """Subjects that match Contract(ignore=...) are in no finding."""
    stream = Stream(["a", "b"], contract=Contract(ignore=["a*"]))
    stream.step(values={"*": 20.0})
    assert only(stream.findings(ALL)).subjects == ["b"]


def test_an_event_that_comes_late_gets_a_look() -> None:
    """An event of a step that was judged already is presented at a late look, once."""
    stream = Stream(["w"])
    stream.step(values={"*": 1.0})
    stream.flush()
    engine = Engine("run", ALL)
    feed(engine, stream.frames)
    assert engine.findings == []
    stream.checkpoint(rows={"w": {"digest": 1}}, path="/ckpt")
    stream.flush()
    feed(engine, stream.frames[-1:])
    found = only(engine.findings)
    assert (found.detector, found.first_step) == ("bad-save", 1)


def test_a_killed_attempt_is_judged_when_the_next_one_goes_on() -> None:
    """What an attempt left unjudged is judged before its successor, and its open findings are resolved then."""
    stream = Stream(["w"])
    stream.step(values={"*": 1.0})
    stream.slot("w", "object", before="x")
    stream.step(values={"*": 1.0})
    stream.restart(closed=False)
    before = Engine("run", ALL)
    feed(before, stream.frames)
    assert only(before.findings).status is Status.OPEN
    stream.step(values={"*": 1.0})
    found = only(stream.findings(ALL))
    assert (found.detector, found.attempt, found.status) == (
        "replaced",
        "attempt-1",
        Status.RESOLVED,
    )


def test_a_detector_that_raises_is_counted_and_the_others_go_on() -> None:
    """Failures of a detector, also of its messages, are its own."""
    stream = Stream(["w"])
    stream.step(values={"*": 20.0}, steps=2)
    engine = stream.engine((Broken, BadMessage, Large))
    assert only(engine.findings).detector == "large"
    assert engine.detector_failures["broken"] == engine.detector_failures["bad-message"] == 3
    assert engine.last_failure["broken"] == "RuntimeError: no"


def test_the_last_clean_checkpoint_is_named() -> None:
    """A finding names the last save before its first step in which no checkpoint detector found anything."""
    stream = Stream(["w"])
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/ckpt/1")
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/ckpt/2", rows={"w": {"digest": 1}})
    stream.step(values={"*": 20.0})
    stream.checkpoint(path="/ckpt/3")
    by_name = {found.detector: found for found in stream.findings(ALL)}
    assert by_name["large"].last_clean_checkpoint == "/ckpt/1 (step 1)"
    assert by_name["bad-save"].last_clean_checkpoint == "/ckpt/1 (step 1)"


def test_duplicates_change_nothing_and_another_process_is_refused() -> None:
    """A frame that came before is not taken; another process as the same rank is a conflict."""
    stream = Stream(["w"])
    stream.step(values={"*": 20.0})
    stream.flush()
    engine = Engine("run", ALL)
    feed(engine, stream.frames)
    header, tables = decode(stream.frames[-1])
    assert not engine.ingest(validate_header(header), tables)
    other = validate_header({**header, "process": "someone else", "seq": header["seq"] + 1})
    with pytest.raises(RunConflict, match="give each job its own run name"):
        engine.ingest(other, tables)
    assert engine.summary()["judged_steps"] == 1


def told(stream: Stream, frames: list[bytes]) -> list[dict[str, Any]]:
    """The findings of these frames in this order."""
    engine = Engine(stream.run, ALL)
    feed(engine, frames)
    engine.finish()
    return [found.as_json() for found in engine.findings]


def eventful(world_size: int) -> Stream:
    """A run of several ranks with sharded tensors, events, a save and a restart."""
    half = 32

    def table(rank: int) -> list[Any]:
        offset = half * rank
        sharded = tensor("layers.0.w", layout="box", offsets=[offset], sizes=[half])
        return [sharded, tensor("layers.1.w", layout="replica", replica_group="dp")]

    by_rank: Mapping[int, list[Any]] = {rank: table(rank) for rank in range(world_size)}
    stream = Stream([], world_size=world_size, by_rank=by_rank)
    ranks = tuple(range(world_size))
    for step in range(12):
        if step == 4:
            stream.slot("layers.1.w", "object", rank=1)
        if step == 6:
            stream.slot("layers.0.w", "object")
        norm = 8.0 if step % 5 == 3 else 1.0
        stream.step(values={"layers.0.w": norm, "layers.1.w": 1.5 * norm}, loss=float(step))
        if step in (5, 9):
            stream.checkpoint(path=f"/{step}", ranks=ranks, rows={"layers.0.w": {"digest": step}})
        if step == 7:
            stream.flush()
            stream.checkpoint(path="/late", ranks=ranks, rows={"layers.0.w": {"digest": 3}})
    stream.restart(by_rank=by_rank, tensors=[])
    stream.step(values={"*": 9.0}, steps=4)
    stream.close()
    return stream


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_frames_changes_a_finding(seed: int) -> None:
    """Any interleaving of ranks, and any order within an attempt, gives the same findings to the letter."""
    stream = eventful(world_size=2)
    expected = told(stream, stream.frames)
    assert {found["detector"] for found in expected} == {"large", "replaced", "bad-save"}
    attempts: dict[str, list[bytes]] = {}
    for blob in stream.frames:
        attempts.setdefault(decode(blob)[0]["attempt"], []).append(blob)
    order = random.Random(seed)
    for frames in attempts.values():
        order.shuffle(frames)
    assert told(stream, [blob for frames in attempts.values() for blob in frames]) == expected


def test_a_silent_rank_is_waited_for_up_to_a_point() -> None:
    """Nothing is judged before all ranks are past a step, unless the others are 256 steps ahead."""
    stream = Stream(["w"], world_size=2)
    stream.step(values={"*": 20.0}, steps=300)
    stream.flush()
    engine = Engine("run", ALL)
    alone = [blob for blob in stream.frames if decode(blob)[0]["rank"] == 0]
    feed(engine, alone[:200])
    assert engine.findings == []
    feed(engine, alone[200:])
    assert engine.judged_through == {"attempt-1": 300 - 256}


def test_a_restart_opens_nothing_twice() -> None:
    """After restore() the same frames give the findings that a monitor without a restart has."""
    stream = eventful(world_size=2)
    expected = told(stream, stream.frames)
    for cut in range(1, len(stream.frames), 5):
        first = Engine("run", ALL)
        feed(first, stream.frames[:cut])
        stored = [Finding.from_json(found.as_json()) for found in first.drain_changes()]
        second = Engine("run", ALL)
        second.restore(stored, first.judged_through)
        feed(second, stream.frames)
        second.finish()
        again = {found.id: found for found in second.findings}
        assert set(again) == {found["id"] for found in expected}
        for found in expected:
            same = again[found["id"]].as_json()
            for field in ("subjects", "first_step", "last_step", "status", "severity"):
                assert same[field] == found[field], (cut, found["id"], field)


def test_changes_are_drained_once() -> None:
    """drain_changes() gives what was opened or claimed since the last call."""
    stream = Stream(["w"])
    stream.step(values={"*": 20.0})
    stream.step(values={"*": 1.0})
    stream.flush()
    engine = Engine("run", ALL)
    feed(engine, stream.frames)
    assert [found.detector for found in engine.drain_changes()] == ["large"]
    assert engine.drain_changes() == []


def test_pieces_cover_every_step_once() -> None:
    """Pieces for the store lie on multiples of 128 steps and hold all values."""
    stream = Stream(["a", "b"], base_step=100)
    for step in range(200):
        stream.step(values={"a": float(step)}, loss=float(step))
    stream.close()
    engine = stream.engine(ALL)
    pieces = engine.drain_pieces()
    assert [(int(piece.steps[0]), int(piece.steps[-1])) for piece in pieces] == [
        (101, 127), (128, 255), (256, 300),
    ]  # fmt: skip
    values = np.concatenate([piece.statistics["norm"][0][:, 0] for piece in pieces])
    assert values.tolist() == [float(step) for step in range(200)]
    losses = np.concatenate([piece.scalars["loss"][1] for piece in pieces])
    assert losses.tolist() == values.tolist()
    assert engine.drain_pieces() == []


def test_pieces_stay_as_they_are_while_they_are_held() -> None:
    """The window moves over its rows twice before the pieces are taken: they hold what they held when they were cut."""
    stream = Stream(["a", "b"])
    for step in range(900):
        stream.step(values={"a": float(step)})
    stream.close()
    pieces = stream.engine(ALL).drain_pieces()
    values = np.concatenate([piece.statistics["norm"][0][:, 0] for piece in pieces])
    assert values.tolist() == [float(step) for step in range(900)]
    steps = np.concatenate([piece.steps for piece in pieces])
    assert steps.tolist() == list(range(1, 901))


def test_what_is_known_of_a_run() -> None:
    """summary, coverage, series and worst tell what the frames said."""
    stream = Stream(["a", "b", "c"], step_offset=1000, plan="the cores of 3 every 2 steps")
    stream.optimizers([["a", "b"]])
    stream.step(values={"a": 1.0, "b": 2.0}, loss=3.5, lr=0.1)
    stream.step(values={"a": 4.0}, loss=2.5)
    engine = stream.engine(ALL)
    summary = engine.summary()
    assert (summary["step"], summary["our_step"], summary["loss"], summary["lr"]) == (
        1002,
        2,
        2.5,
        0.1,
    )
    coverage = engine.coverage()
    assert coverage["seen"]["values"] == pytest.approx(2 / 3, abs=1e-3)
    assert coverage["exercised"]["losses"] == 2
    assert "no checkpoint was saved" in coverage["never"]
    assert coverage["plan"] == "the cores of 3 every 2 steps"
    steps, values = engine.series("a", "norm")
    assert (steps.tolist(), values.tolist()) == ([1, 2], [1.0, 4.0])
    assert engine.worst("norm", 2) == [("a", 4.0, 2), ("b", 2.0, 1)]
    with pytest.raises(KeyError, match="no tensor 'x'"):
        engine.series("x", "norm")


def test_every_digest_column_is_merged() -> None:
    """The stream's digests reach a view whole (guards the test support itself)."""
    seen: list[Any] = []

    class Digesting(_Test):
        """Notes the digests."""

        name = "digesting"

        def look(self, view: View) -> Iterable[Claim]:
            """Nothing to claim."""
            seen.append(view.digests())
            return []

    stream = Stream(["w"])
    stream.step(digests={"w": 7})
    stream.findings([Digesting])
    assert set(seen[0]) == {column.name for column in DIGESTS.columns}
    assert seen[0]["digest"].tolist() == [7]


@pytest.mark.parametrize("period", [1, 4, 7, 14])
def test_the_time_of_a_detector_is_estimated_well_whenever_it_looks(
    period: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has something to do at every so many steps only, in which the sampling may not come round."""
    clock = Clock()
    monkeypatch.setattr(engine_module, "time", clock)
    busy = onlooker(lambda view: clock.work() if view.step % period == 0 else None)
    engine = Engine("run", [busy])
    stream = Stream(["w"])
    stream.step(values={"w": 1.0}, steps=2100)
    stream.flush()
    feed(engine, stream.frames)
    engine.finish()
    assert engine.detector_seconds["onlooker"] == pytest.approx(clock.now, rel=0.3)


class Clock:
    """In place of the module `time`: the CPU time of whoever says that it works."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self) -> None:
        """For a second."""
        self.now += 1

    def thread_time(self) -> float:
        """Seconds."""
        return self.now
