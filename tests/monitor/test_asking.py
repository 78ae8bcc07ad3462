"""
What a question to the API waits for while frames are judged: the interpreter's lock, at every change of threads and all
the time that the worker goes on beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import trainvitals_monitor.courtesy
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream
from trainvitals_monitor.config import Config
from trainvitals_monitor.courtesy import SHARE, Courtesy
from trainvitals_monitor.ingest import Arrival
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.models import RunOut
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.queries import Queries

QUESTIONS = (
    "runs",
    "runs/run",
    "runs/run/findings",
    "runs/run/tensors",
    "runs/run/worst?stat=norm",
    "runs/run/series?tensor=a&stat=norm",
)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor that has a run."""
    stream = Stream(["a", "b"], run="run")
    stream.step(values={"*": 1.0})
    stream.flush()
    with serving(Config(store=str(tmp_path))) as client:
        client.push_all(stream.frames)
        yield client


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_one_thread(
    http: Client, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """One for all of it: to find what is asked for, and to write the answer."""
    taken = []
    run_sync = anyio.to_thread.run_sync

    async def counted(called: Any, *given: Any, **named: Any) -> Any:
        taken.append(called)
        return await run_sync(called, *given, **named)

    monkeypatch.setattr(anyio.to_thread, "run_sync", counted)
    http.get_json(f"/api/v1/{question}")
    assert len(taken) == 1


class Hanging:
    """A question (GET /runs) that is answered when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.told = threading.Event(), threading.Event()
        monkeypatch.setattr(Queries, "runs", self._runs)

    def _runs(self) -> list[RunOut]:
        self.begun.set()
        assert self.told.wait(60)
        return []


def make_patient(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits for a question for a minute."""
    monkeypatch.setattr(trainvitals_monitor.courtesy, "PAUSE_S", 60.0)
    monitor.courtesy._credit_s = 60.0


def frame(run: str) -> bytes:
    """One that is new."""
    stream = Stream(["a"], run=run)
    stream.step(values={"*": 1.0})
    stream.flush()
    return stream.frames[0]


def test_the_worker_waits_for_a_question(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that comes meanwhile is judged when it is answered."""
    make_patient(http.monitor, monkeypatch)
    question = Hanging(monkeypatch)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(http.get, "/api/v1/runs")
        assert question.begun.wait(60)
        accepted = http.monitor.submit(frame("next"))
        with pytest.raises(TimeoutError):
            accepted.result(0.2)
        question.told.set()
        accepted.result(30)
        assert answer.result(30).status_code == 200


def test_a_frame_that_was_judged_is_stored_after_the_question(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that comes while a frame is judged need not wait for all that is left of its way."""
    make_patient(http.monitor, monkeypatch)
    question, take = Hanging(monkeypatch), LiveRun.take
    with ThreadPoolExecutor() as pool:

        def asked_meanwhile(live: LiveRun, arrival: Arrival) -> bool:
            pool.submit(http.get, "/api/v1/runs")
            assert question.begun.wait(60)
            return take(live, arrival)

        monkeypatch.setattr(LiveRun, "take", asked_meanwhile)
        accepted = http.monitor.submit(frame("next"))
        with pytest.raises(TimeoutError):
            accepted.result(0.5)
        assert not http.monitor.roster.get("next").is_empty
        question.told.set()
        accepted.result(30)


def test_a_question_that_hangs_keeps_no_frame_out(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's courtesy has an end."""
    question = Hanging(monkeypatch)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(http.get, "/api/v1/runs")
        assert question.begun.wait(60)
        for number in range(5):
            http.monitor.submit(frame(f"next-{number}")).result(30)
        assert http.metric("trainvitals_monitor_ingest_seconds_total", stage="pause") > 0
        question.told.set()
        assert answer.result(30).status_code == 200


def test_a_question_is_over_however_it_ends(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one about nothing, one that is wrong, and one that the monitor fails at."""
    make_patient(http.monitor, monkeypatch)

    def fails(_queries: Queries) -> list[RunOut]:
        raise RuntimeError("a fault of the monitor's own")

    monkeypatch.setattr(Queries, "runs", fails)
    asked = ("runs/nobody", "runs/run/worst?count=0", "runs/run", "nothing", "runs")
    assert [http.get(f"/api/v1/{one}").status_code for one in asked] == [404, 422, 200, 404, 500]
    http.monitor.submit(frame("next")).result(30)


def test_the_worker_keeps_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody asks all the time, by a clock of the test's own: frames of 1 ms, pauses as long as they may be."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    courtesy = Courtesy()
    paused = 0.0

    def wait_for(_done: object, timeout: float) -> None:
        nonlocal now, paused
        now, paused = now + timeout, paused + timeout

    monkeypatch.setattr(courtesy._changed, "wait_for", wait_for)
    with courtesy.asking():
        for _ in range(1000):
            courtesy.pause()
            now += 0.001
    assert paused <= SHARE * (now - 100.0) + trainvitals_monitor.courtesy.PAUSE_S
    assert paused > 0.9 * SHARE * (now - 100.0)
