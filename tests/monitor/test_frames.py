"""
POST /api/v1/frames over real HTTP: what is accepted, answered, put off and refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.monitor.raw_frames import frame, header, values
from tests.monitor.runs import faulty
from tests.monitor.serving import Client, serving, until
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.monitor import Monitor


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor with an empty store."""
    with serving(Config(store=str(tmp_path))) as client:
        yield client


def test_an_accepted_frame_is_answered_with_the_open_findings_and_the_page(http: Client) -> None:
    """The sender hears at once what is wrong, and where to look."""
    stream = faulty()
    http.push_all(stream.frames[:-1])
    answer = http.push(stream.frames[-1]).json()
    assert (answer["accepted"], answer["duplicate"]) == (True, False)
    found = {finding["detector"]: finding for finding in answer["findings"]}
    assert found["slot-replaced"]["subjects"] == ["moe.expert_bias"]
    assert found["slot-replaced"]["first_step"] == 3
    assert answer["page"].endswith("/runs/run")


def test_a_duplicate_is_accepted_and_ignored(http: Client) -> None:
    """The same frame again is 200, marked as duplicate, counted, and changes nothing."""
    stream = faulty()
    http.push_all(stream.frames)
    before = http.get_json("/api/v1/runs")
    again = http.push(stream.frames[2])
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert http.get_json("/api/v1/runs") == before
    assert http.metric("trainvitals_monitor_frames_duplicate_total") == 1


def test_frames_may_come_in_any_order(http: Client) -> None:
    """What is found does not depend on the network."""
    stream = faulty()
    http.push_all([stream.frames[i] for i in (1, 0, 3, 2, 5, 4)])
    found = http.get_json("/api/v1/runs/run/findings")["findings"]
    assert {one["detector"]: one["first_step"] for one in found}["slot-replaced"] == 3


def test_two_jobs_under_one_name_are_told_so(http: Client) -> None:
    """A second process that speaks as the same rank gets 409, and its frame leaves no trace."""
    http.push_all([frame()])
    other = http.push(frame(header(process="q", seq=1)))
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    assert "own run name" in other.json()["detail"]
    assert http.push(frame(header(world_size=2, rank=1))).status_code == 409
    assert [one["world_size"] for one in http.get_json("/api/v1/runs")["runs"]] == [1]


def test_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    """What does not fit is not taken; what was taken is stored when the writer gets to it."""
    with serving(Config(store=str(tmp_path), limits=Limits(queue_frames=3))) as http:
        http.push_all([frame()])
        with http.monitor.roster.get("run").lock:  # the writer waits for it, as behind a slow disk
            waiting = [http.monitor.submit(frame(header(seq=1)))]
            until(lambda: http.monitor.queued()[0] == 0)
            waiting += [http.monitor.submit(frame(header(seq=seq))) for seq in (2, 3, 4)]
            refused = http.push(frame(header(seq=9)))
        assert (refused.status_code, refused.json()["error"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) > 0
        assert all(json.loads(answer.result(10))["accepted"] for answer in waiting)
        assert http.metric("trainvitals_monitor_frames_accepted_total") == 5


def test_the_queue_is_bounded_by_bytes(tmp_path: Path) -> None:
    """A few large frames fill it as many small ones do; a frame larger than all of it still gets through alone."""
    with serving(Config(store=str(tmp_path), limits=Limits(queue_bytes=1))) as http:
        http.push_all([frame()])
        with http.monitor.roster.get("run").lock:
            taken = http.monitor.submit(frame(header(seq=1)))
            until(lambda: http.monitor.queued()[0] == 0)
            waiting = http.monitor.submit(frame(header(seq=2)))
            assert http.push(frame(header(seq=9))).status_code == 429
        assert taken.result(10)
        assert waiting.result(10)


def test_a_store_that_cannot_be_written_is_503_and_heals(http: Client) -> None:
    """A full disk: frames are refused with Retry-After, /readyz says why; with room again all goes on."""
    http.push_all([frame()])
    _pages(http.monitor, 1)
    big = frame(
        header(seq=1, tensors=[]),
        values(np.zeros(50_000), np.ones(50_000), np.random.default_rng(0).random(50_000)),
    )
    refused = http.push(big)
    assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
    assert "full" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert "full" in ready.json()["detail"]
    assert http.get("/healthz").status_code == 200
    assert http.metric("trainvitals_monitor_errors_total", stage="store") == 1
    _pages(http.monitor, 1 << 30)
    assert http.push(big).json()["duplicate"] is False
    assert http.get("/readyz").status_code == 200
    assert http.get_json("/api/v1/runs/run/series", tensor="w")["steps"] == [1]


def _pages(monitor: Monitor, most: int) -> None:
    """SQLite's own limit of a file's size, on the writer's connection."""
    with monitor.store.writing() as writing:
        writing._connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")


def test_a_fault_of_the_engine_loses_no_frame(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame is stored, the fault counted, and the monitor goes on."""
    http.push_all([frame()])

    def broken(*_: object) -> None:
        raise RuntimeError("bug")

    engine = http.monitor.roster.get("run").engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "ingest", broken)
        assert http.push(frame(header(seq=1, tensors=[]), values(step=[2]))).status_code == 200
    assert http.metric("trainvitals_monitor_errors_total", stage="judge") == 1
    live = http.monitor.roster.get("run")
    assert live.id is not None
    assert [one.seq for one in http.monitor.store.frames(live.id)] == [0, 1]


def test_a_sender_that_hangs_up_while_it_waits_harms_nobody(http: Client) -> None:
    """Its frame is dropped if nobody has begun it; the frames around it are stored and answered."""
    http.push_all([frame()])
    with http.monitor.roster.get("run").lock:
        taken = http.monitor.submit(frame(header(seq=1)))
        until(lambda: http.monitor.queued()[0] == 0)
        gone = http.monitor.submit(frame(header(seq=2)))
        last = http.monitor.submit(frame(header(seq=3)))
        assert gone.cancel()
        assert not taken.cancel()
    assert json.loads(taken.result(10))["accepted"]
    assert json.loads(last.result(10))["accepted"]
    assert not http.monitor.counters.errors
    assert http.push(frame(header(seq=2))).json()["duplicate"] is False


def test_more_runs_than_allowed_are_refused(tmp_path: Path) -> None:
    """A sender cannot fill the store with names; runs that are there go on."""
    with serving(Config(store=str(tmp_path), limits=Limits(runs=2))) as http:
        http.push_all([frame(header(run=name)) for name in ("a", "b")])
        refused = http.push(frame(header(run="c")))
        assert (refused.status_code, refused.json()["error"]) == (422, "over-limit")
        assert http.push(frame(header(run="a", seq=1))).status_code == 200
