"""
What is in memory again after a restart, what the store forgets, and how the monitor ends.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.raw_frames import frame
from tests.monitor.runs import faulty, healthy
from tests.monitor.serving import serving
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor import forgetting, roster
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.history.lasting import lasting_of
from trainvitals_monitor.history.left import left_by
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.packed import unpack_frame
from trainvitals_monitor.refusal import Refusal


def test_history_and_findings_are_back_after_a_restart(tmp_path: Path) -> None:
    """Findings, series, tensors, run and duplicates are as before; nothing is opened twice."""
    stream = faulty(steps=20)
    half = len(stream.frames) // 2
    paths = [
        "/api/v1/runs/run/findings",
        "/api/v1/runs/run/tensors",
        "/api/v1/runs/run/series?tensor=layers.0.w&stat=norm",
        "/api/v1/runs/run/series?scalar=loss",
        "/api/v1/runs/run",
    ]
    with serving(Config(store=str(tmp_path), public_url="http://x")) as http:
        http.push_all(stream.frames[:half])
        before = [http.get_json(path) for path in paths]
        assert before[0]["findings"]
    with serving(Config(store=str(tmp_path), public_url="http://x")) as http:
        assert [http.get_json(path) for path in paths] == before
        assert http.push(stream.frames[0]).json()["duplicate"] is True
        http.push_all(stream.frames[half:])
        after = http.get_json(paths[0])["findings"]
    with serving(Config(store=str(tmp_path / "other"))) as http:
        http.push_all(stream.frames)
        assert [_told(one) for one in after] == [
            _told(one) for one in http.get_json(paths[0])["findings"]
        ]


def _told(finding: dict[str, Any]) -> Any:
    return (
        finding["id"],
        finding["first_step"],
        finding["subjects"],
        finding["status"],
        finding["message"],
    )


def test_old_frames_are_forgotten_and_what_they_said_is_not(tmp_path: Path) -> None:
    """Rows of frames stay few, a restart still knows tensors, events and series, and duplicates stay duplicates."""
    stream = faulty(steps=3)
    for _ in range(560):
        stream.step(values={"*": 1.0}, loss=1.0, lr=1e-3)
    stream.flush()
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(stream.frames)
        frames = _frames(http.monitor)
        assert len(frames) < 320
        shrunk = [unpack_frame(one.blob) for one in frames if not one.whole]
        assert 1 <= len(shrunk) <= 3
        assert all(head["tensors"] or head["events"] for head, _ in shrunk)
        assert [len(head["tensors"]) for head, _ in shrunk if head["tensors"]] == [3]
        assert not any(tables for _, tables in shrunk)
        found = http.get_json("/api/v1/runs/run/findings")
    with serving(Config(store=str(tmp_path))) as http:
        assert http.get_json("/api/v1/runs/run/findings") == found
        assert http.get_json("/api/v1/runs/run/tensors")["total"] == 3
        steps = http.get_json("/api/v1/runs/run/series", tensor="layers.0.w", stat="norm")["steps"]
        assert steps == list(range(1, 564))
        for seq in (1, 2, 100, 300, 560):
            assert http.push(stream.frames[seq]).json()["duplicate"] is True, seq
        stream.step(values={"*": 1.0})
        stream.flush()
        assert http.push(stream.frames[-1]).json()["duplicate"] is False
        assert http.get_json("/api/v1/runs/run")["step"] == 564


def test_frames_are_forgotten_in_small_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand ranks leave very many behind at once: each transaction takes some, and in the end all are gone."""
    monkeypatch.setattr(forgetting, "AT_ONCE", 8)
    stream = healthy(450)
    with serving(Config(store=str(tmp_path))) as http:
        counts: list[int] = []
        for blob in stream.frames:
            http.push(blob)
            counts.append(len(_frames(http.monitor)) if len(counts) > 380 else 0)
        fell = [before - after for before, after in pairwise(counts[381:])]
        assert max(fell) == 8 - 1
        assert min(fell) == -1
        assert counts[-1] <= 450 - 125
    with serving(Config(store=str(tmp_path))) as http:
        assert len(http.get_json("/api/v1/runs/run/series", tensor="w")["steps"]) == 450
        assert http.push(stream.frames[100]).json()["duplicate"] is True


def _frames(monitor: Monitor) -> list[Any]:
    run_id = monitor.roster.get("run").id
    assert run_id is not None
    return list(monitor.store.frames(run_id))


def scheduled(steps: int) -> Stream:
    """A long run of four groups: one's cosine goes on, one decays per step, one leaps late, one joins late."""
    stream = Stream(["a", "b", "c", "d", "e"])
    stream.optimizers([["a"], ["b"], ["c"]])
    for step in range(1, steps + 1):
        rare = {"d": {"update_norm": 0.1, "changed": 3}} if step == 3 else {}
        if step == 300:
            stream.optimizers([["a"], ["b"], ["c"], ["d"]])
        stream.step(
            values=dict.fromkeys("abcde" if step == 1 else "abcd", 1.0),
            updates=dict.fromkeys("abc", 0.1) | rare,
            digests={"*": 7} if step in (1, 200) else None,
            lr=[
                1e-3 * (1 + math.cos(math.pi * (step - 1) / 500)) / 2,
                1e-3 * 0.97**step,
                1e-3 if step < 9 else 2e-3 if step < 600 else 1e-2,
                *([1e-3] if step >= 300 else []),
            ],
            weight_decay=0.1,
        )
    stream.flush()
    return stream


def test_what_rates_and_tensors_did_long_ago_outlives_a_restart(tmp_path: Path) -> None:
    """Started anew late in a long attempt, twice, the monitor finds the same, and the next attempt is told the same."""
    stream = scheduled(620)
    told = []
    for cuts in ([], [455, 505, 590]):
        store = str(tmp_path / f"store-{len(cuts)}")
        for start, end in zip([0, *cuts], [*cuts, None], strict=True):
            with serving(Config(store=store)) as http:
                http.push_all(stream.frames[start:end])
                if end == 455:
                    assert not http.get_json("/api/v1/runs/run/findings")["findings"]
                engine = http.monitor.roster.get("run").engine
                attempt = engine.history.current
                assert attempt is not None
                left = left_by(attempt)
                known = lasting_of(attempt, 1 << 62)
                findings = sorted((one.as_json() for one in engine.findings), key=str)
        told.append((known, left.schedules, left.end.of(["a", "e"])[1].tolist(), findings))
    assert {one["detector"] for one in findings} >= {
        "schedule-overrun",
        "learning-rate-vanished",
        "learning-rate-jump",
    }
    assert told[0] == told[1]


def test_a_second_attempt_after_a_restart_knows_the_first(tmp_path: Path) -> None:
    """Attempts are listed, each with its series; what was open in the first is resolved when the second goes on."""
    stream = faulty()
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(stream.frames)
    sent = len(stream.frames)
    stream.restart(closed=False)
    for _ in range(3):
        stream.step(values={"*": 9.0}, loss=1.0)
    stream.flush()
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(stream.frames[sent:])
        detail = http.get_json("/api/v1/runs/run")
        assert [one["attempt"] for one in detail["all_attempts"]] == ["attempt-1", "attempt-2"]
        assert (detail["attempts"], detail["step"]) == (2, 9)
        first = http.get_json("/api/v1/runs/run/series", tensor="layers.0.w", attempt="attempt-1")
        second = http.get_json("/api/v1/runs/run/series", tensor="layers.0.w")
        assert (first["steps"], second["steps"]) == ([1, 2, 3, 4, 5, 6], [7, 8, 9])
        slot = next(
            one
            for one in http.get_json("/api/v1/runs/run/findings")["findings"]
            if one["detector"] == "slot-replaced"
        )
        assert slot["status"] == "resolved"


def test_the_first_rates_of_a_run_outlive_its_first_attempt(tmp_path: Path) -> None:
    """Three short attempts: what the last one is told of the first one's rates is the same after a restart."""
    stream = Stream(["w"])
    for attempt in range(3):
        stream.optimizers([["w"]])
        for step in range(1, 7):
            stream.step(values={"w": 1.0}, lr=1e-3 * step * (attempt + 1))
        if attempt < 2:
            stream.restart(closed=False)
    stream.flush()
    told = []
    for blobs in (stream.frames, []):
        with serving(Config(store=str(tmp_path))) as http:
            http.push_all(blobs)
            engine = http.monitor.roster.get("run").engine
            assert engine.history.get("attempt-1") is None
            attempt_now = engine.history.current
            assert attempt_now is not None
            assert attempt_now.previous is not None
            told.append(attempt_now.previous.schedules)
    assert told[0]["w"].first == (1e-3, 2e-3, 3e-3, 4e-3)
    assert told[1] == told[0]


def test_an_attempt_that_left_memory_is_read_step_by_step(tmp_path: Path) -> None:
    """The first of four attempts rests in the store only; its series is not thinned for want of a last step."""
    stream = healthy(20)
    for _ in range(3):
        stream.restart(closed=False)
        for _ in range(20):
            stream.step(values={"w": 1.0})
        stream.flush()
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(stream.frames)
        assert http.monitor.roster.get("run").engine.history.get("attempt-1") is None
        live = http.get_json("/api/v1/runs/run/series", tensor="w", attempt="attempt-1")
    with serving(Config(store=str(tmp_path))) as http:
        again = http.get_json("/api/v1/runs/run/series", tensor="w", attempt="attempt-1")
    assert (live["every"], live["steps"]) == (1, list(range(1, 21)))
    assert again == live


@pytest.mark.parametrize("cuts", [[7], [5, 7, 9]])
def test_a_frame_on_its_way_at_a_restart_is_not_late(tmp_path: Path, cuts: list[int]) -> None:
    """A rank's next frame has come before it: the step is judged when both are there, as without a restart."""
    stream = Stream(
        [tensor("w", layout="unknown", offsets=[0], sizes=[64])], world_size=2, base_step=3
    )
    for step in range(4, 10):
        stream.step(values={"w": float(step)}, gradients={"w": float(step)})
    stream.flush()
    frames = [
        stream.frames[i] for i in (0, 1, 2, 3, 5, 6, 7, 8, 9, 4, *range(10, len(stream.frames)))
    ]
    told = []
    for number, ends in enumerate(([], cuts)):
        for start, end in zip([0, *ends], [*ends, None], strict=True):
            with serving(Config(store=str(tmp_path / f"{number}"))) as http:
                http.push_all(frames[start:end])
                attempt = http.monitor.roster.get("run").engine.history.current
                assert attempt is not None
                stats = ("norm", "grad_norm", "grad_replicas")
                series = [attempt.window.series(stat, 0)[1].tolist() for stat in stats]
                dropped = dict(attempt.dropped)
        told.append((series, dropped))
    assert told[0] == ([[4.0, 5.0, 6.0, 7.0, 8.0, 9.0]] * 2 + [[2.0] * 6], {})
    assert told[0] == told[1]


def test_a_stored_frame_that_cannot_be_read_takes_nothing_with_it(tmp_path: Path) -> None:
    """It is counted; its run goes on, judges as before, and so do the runs beside it."""
    stream = healthy(6)
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(stream.frames[:4])
        stored = http.monitor.roster.get("run").stored_as("attempt-1")
        assert stored is not None
        with http.monitor.store.writing() as writing:
            ids = {row["seq"]: row["id"] for row in writing.old_frames(stored[0], 9, 9)}
            writing.shrink_frame(ids[3], b"\x00")
    with serving(Config(store=str(tmp_path))) as http:
        assert http.metric("trainvitals_monitor_errors_total", stage="read-back") == 1
        http.push_all([*healthy(2, run="other").frames, *stream.frames[4:]])
        assert http.get_json("/api/v1/runs/run")["step"] == 6
        assert http.get_json("/api/v1/runs/run/series", tensor="w")["steps"] == [1, 3, 4, 5, 6]


def test_runs_beyond_those_in_memory_are_read_back_when_asked_for(tmp_path: Path) -> None:
    """With room for two, four runs all answer, and go on."""
    limits = Limits(live_runs=2, live_bytes=0)
    with serving(Config(store=str(tmp_path), limits=limits)) as http:
        for name in "abcd":
            http.push_all(healthy(5, run=name).frames)
        assert len(http.monitor.roster.all()) == 2
        assert {one["run"] for one in http.get_json("/api/v1/runs")["runs"]} == set("abcd")
        assert [one["step"] for one in http.get_json("/api/v1/runs")["runs"]] == [5] * 4
        http.push_all(healthy(7, run="a").frames[5:])
        assert http.get_json("/api/v1/runs/a")["step"] == 7
        assert http.get_json("/api/v1/runs/b/series", tensor="w")["steps"] == [1, 2, 3, 4, 5]


def test_runs_that_send_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short those that don't leave first, then those used longest ago; what is silent goes by number."""
    limits = Limits(live_runs=2, live_bytes=7 << 20)
    with serving(Config(store=str(tmp_path), limits=limits)) as http:
        runs = http.monitor.roster

        def push(name: str, *, closed: bool = False) -> None:
            stream = healthy(3, run=name)
            if closed:
                stream.close()
            http.push_all(stream.frames)

        for name in "abcdef":
            push(name, closed=name == "b")
        lives = runs.all()
        assert [live.name for live in lives] == list("abcdef")
        push("g")
        assert [live.name for live in runs.all()] == list("acdefg")
        push("h")
        assert [live.name for live in runs.all()] == list("cdefgh")
        assert runs.all()[:4] == lives[2:]
        assert sum(one.engine.history.num_bytes for one in runs.all()) <= limits.live_bytes
        monkeypatch.setattr(roster, "SENDING_S", -1.0)
        push("i")
        assert [live.name for live in runs.all()] == ["h", "i"]
        assert {one["run"] for one in http.get_json("/api/v1/runs")["runs"]} == set("abcdefghi")


def test_a_closing_monitor_takes_nothing_more(tmp_path: Path) -> None:
    """After close() a frame is refused as unavailable; close() twice is harmless to the store."""
    monitor = Monitor(Config(store=str(tmp_path)))
    monitor.start()
    monitor.close()
    assert monitor.trouble() == "the monitor is ending"
    with pytest.raises(Refusal, match="ending"):
        monitor.submit(frame())
