"""
The API over real HTTP: what is accepted, answered, found again after a restart, and shown.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from tests.monitor.raw_frames import frame, header, values
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.ingest import read_frame
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.packed import unpack_frame
from trainvitals_monitor.refusal import REASONS, Refusal


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor with an empty store."""
    with serving(Config(store=str(tmp_path))) as client:
        yield client


def faulty(run: str = "run", steps: int = 6) -> Stream:
    """A run in which a buffer is replaced at step 3, with a loss and a norm that count the steps."""
    stream = Stream(["layers.0.w", "layers.1.w", tensor("moe.expert_bias", kind="buffer")], run=run)
    stream.optimizers([["layers.0.w", "layers.1.w"]])
    for step in range(1, steps + 1):
        if step == 3:
            stream.slot("moe.expert_bias", "object", "storage")
        stream.step(
            values={"*": float(step)},
            updates={"layers.0.w": 0.1, "layers.1.w": 0.1},
            gradients={"layers.0.w": 1.0, "layers.1.w": 1.0},
            loss=1.0 / step,
            lr=1e-3,
        )
    stream.flush()
    return stream


def healthy(steps: int, run: str = "run", *, flush: bool = True) -> Stream:
    """A run with one tensor whose norm wanders."""
    stream = Stream(["w"], run=run)
    for step in range(1, steps + 1):
        stream.step(values={"w": 1 + step % 7 / 100}, loss=2.0)
    if flush:
        stream.flush()
    return stream


# -- frames --------------------------------------------------------------------------------------------------------


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
    config = Config(store=str(tmp_path), limits=Limits(queue_frames=3))
    with serving(config) as http:
        http.push_all([frame()])
        waiting: list[threading.Thread] = []
        with http.monitor.run("run").lock:  # the writer waits for it, as behind a slow disk
            blobs = [frame(header(seq=seq, tensors=[])) for seq in range(1, 5)]
            for blob in blobs:
                waiting.append(threading.Thread(target=http.push, args=(blob,)))
                waiting[-1].start()
            _until(lambda: http.monitor.queued()[0] == 3)
            refused = http.push(frame(header(seq=9, tensors=[])))
        assert (refused.status_code, refused.json()["error"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) > 0
        for thread in waiting:
            thread.join(10)
        assert http.metric("trainvitals_monitor_frames_accepted_total") == 5


def test_the_queue_is_bounded_by_bytes(tmp_path: Path) -> None:
    """A few large frames fill it as many small ones do; a frame larger than all of it still gets through alone."""
    with serving(Config(store=str(tmp_path), limits=Limits(queue_bytes=1))) as http:
        http.push_all([frame()])
        with http.monitor.run("run").lock:
            first, second = (read_frame(frame(header(seq=seq)), Limits()) for seq in (1, 2))
            taken = http.monitor.submit(first)
            _until(lambda: http.monitor.queued()[0] == 0)
            waiting = http.monitor.submit(second)
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

    engine = http.monitor.run("run").engine
    with monkeypatch.context() as patch:
        patch.setattr(engine, "ingest", broken)
        assert http.push(frame(header(seq=1, tensors=[]), values(step=[2]))).status_code == 200
    assert http.metric("trainvitals_monitor_errors_total", stage="judge") == 1
    live = http.monitor.run("run")
    assert live.id is not None
    assert [one.seq for one in http.monitor.store.frames(live.id)] == [0, 1]


def test_more_runs_than_allowed_are_refused(tmp_path: Path) -> None:
    """A sender cannot fill the store with names; runs that are there go on."""
    with serving(Config(store=str(tmp_path), limits=Limits(runs=2))) as http:
        http.push_all([frame(header(run=name)) for name in ("a", "b")])
        refused = http.push(frame(header(run="c")))
        assert (refused.status_code, refused.json()["error"]) == (422, "over-limit")
        assert http.push(frame(header(run="a", seq=1))).status_code == 200


# -- reading -------------------------------------------------------------------------------------------------------


def test_a_run_is_listed_with_where_it_is(http: Client) -> None:
    """Step, loss, learning rate, ranks, tensors, coverage and findings in one row."""
    http.push_all(faulty().frames)
    (run,) = http.get_json("/api/v1/runs")["runs"]
    assert run["run"] == "run"
    assert (run["step"], run["loss"], run["lr"]) == (6, pytest.approx(1 / 6), 1e-3)
    assert (run["tensors"], run["coverage"], run["world_size"], run["ranks_reporting"]) == (
        3,
        1.0,
        1,
        1,
    )
    assert run["findings"]["critical"] + run["findings"]["warning"] >= 1
    detail = http.get_json("/api/v1/runs/run")
    assert detail["scalars"] == ["loss"]
    assert detail["all_attempts"] == [
        {"attempt": "attempt-1", "world_size": 1, "started_at": 1.0, "judged_through": 6}
    ]
    assert "no checkpoint was saved" in detail["detail"]["never"]


@pytest.mark.parametrize(
    "name", ["plain", "team/exp 7", "a%2Fb", "a?b#c&d", "\u5b9f\u9a13/1", "x/findings/y"]
)
def test_a_run_of_any_name_is_found_by_it(http: Client, name: str) -> None:
    """Slashes as they are or as %2F; everything else as URLs quote it."""
    http.push_all([frame(header(run=name))])
    for safe in ("/", ""):
        path = quote(name, safe=safe)
        assert http.get_json(f"/api/v1/runs/{path}")["run"] == name
        assert http.get_json(f"/api/v1/runs/{path}/findings") == {"findings": []}
        assert http.get_json(f"/api/v1/runs/{path}/tensors")["total"] == 1
        assert http.get_json(f"/api/v1/runs/{path}/series", tensor="w")["steps"] == [1]
        assert name.split("/")[-1].split("&")[0] in http.get(f"/runs/{path}").text


def test_findings_are_filtered_by_status_and_severity(http: Client) -> None:
    """Both filters, one by one and together; wrong words are 422."""
    http.push_all(faulty().frames)
    everything = http.get_json("/api/v1/runs/run/findings")["findings"]
    assert everything
    for status in ("open", "resolved"):
        for severity in ("critical", "warning", "info"):
            found = http.get_json("/api/v1/runs/run/findings", status=status, severity=severity)
            assert found["findings"] == [
                one for one in everything if (one["status"], one["severity"]) == (status, severity)
            ]
    assert http.get("/api/v1/runs/run/findings", params={"status": "closed"}).status_code == 422


def test_tensors_come_in_pages(http: Client) -> None:
    """Total, offset, limit and a glob; the last values with each."""
    http.push_all(faulty().frames)
    page = http.get_json("/api/v1/runs/run/tensors", offset=1, limit=1)
    assert (page["total"], page["offset"]) == (3, 1)
    (row,) = page["tensors"]
    assert (row["fqn"], row["kind"], row["role"], row["latest"]["norm"]) == (
        "layers.1.w",
        "param",
        "other",
        6.0,
    )
    assert http.get_json("/api/v1/runs/run/tensors", match="moe.*")["total"] == 1
    assert http.get("/api/v1/runs/run/tensors", params={"limit": 0}).status_code == 422


def test_a_series_is_what_was_sent_over_chunks_and_window(http: Client) -> None:
    """300 steps, most of them in chunks and many in memory too: every step is there, once."""
    stream = healthy(300)
    http.push_all(stream.frames)
    series = http.get_json("/api/v1/runs/run/series", tensor="w", stat="norm")
    assert series["steps"] == list(range(1, 301))
    np.testing.assert_allclose(
        series["values"], [1 + step % 7 / 100 for step in range(1, 301)], rtol=1e-7
    )
    part = http.get_json("/api/v1/runs/run/series", **{"tensor": "w", "from": 100, "to": 140})
    assert part["steps"] == list(range(100, 141))
    assert http.get_json("/api/v1/runs/run/series", scalar="loss")["steps"] == list(range(1, 301))


def test_non_finite_values_are_words(http: Client) -> None:
    """JSON has no NaN; nothing else is changed."""
    blob = frame(header(complete_through=3), values([0, 0, 0], [1, 2, 3], [np.nan, np.inf, 1.5]))
    http.push_all([blob])
    assert http.get_json("/api/v1/runs/run/series", tensor="w")["values"] == ["nan", "inf", 1.5]
    (row,) = http.get_json("/api/v1/runs/run/tensors")["tensors"]
    assert row["latest"]["norm"] == 1.5


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("/api/v1/runs/nobody", {}, 404),
        ("/api/v1/runs/nobody/findings", {}, 404),
        ("/api/v1/runs/run/series", {"tensor": "nobody"}, 404),
        ("/api/v1/runs/run/series", {"scalar": "nobody"}, 404),
        ("/api/v1/runs/run/series", {"tensor": "w", "attempt": "9"}, 404),
        ("/api/v1/runs/run/series", {"tensor": "w", "stat": "beauty"}, 422),
        ("/api/v1/runs/run/series", {}, 422),
        ("/api/v1/runs/run/series", {"tensor": "w", "scalar": "loss"}, 422),
        ("/api/v1/runs/run/series", {"tensor": "w", "from": "soon"}, 422),
        ("/api/v1/nothing", {}, 404),
        ("/runs/nobody", {}, 404),
    ],
)
def test_what_is_not_there_is_said_so(
    http: Client, path: str, params: dict[str, str], status: int
) -> None:
    """Every error has the one form, with a word for programs and a sentence for people."""
    http.push_all([frame()])
    response = http.get(path, params=params)
    assert response.status_code == status
    assert set(response.json()) == {"error", "detail"}


def test_wrong_methods_are_405(http: Client) -> None:
    """Also in the one form."""
    assert http.get("/api/v1/frames").json()["error"] == "method-not-allowed"
    assert http.delete("/api/v1/runs").status_code == 405


# -- restart -------------------------------------------------------------------------------------------------------


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


def _frames(monitor: Monitor) -> list[Any]:
    run_id = monitor.run("run").id
    assert run_id is not None
    return list(monitor.store.frames(run_id))


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


def test_runs_beyond_those_in_memory_are_read_back_when_asked_for(tmp_path: Path) -> None:
    """With room for two, four runs all answer, and go on."""
    with serving(Config(store=str(tmp_path), limits=Limits(live_runs=2))) as http:
        for name in "abcd":
            http.push_all(healthy(5, run=name).frames)
        assert len(http.monitor.live_runs()) == 2
        assert {one["run"] for one in http.get_json("/api/v1/runs")["runs"]} == set("abcd")
        assert [one["step"] for one in http.get_json("/api/v1/runs")["runs"]] == [5] * 4
        http.push_all(healthy(7, run="a").frames[5:])
        assert http.get_json("/api/v1/runs/a")["step"] == 7
        assert http.get_json("/api/v1/runs/b/series", tensor="w")["steps"] == [1, 2, 3, 4, 5]


def test_a_closing_monitor_takes_nothing_more(tmp_path: Path) -> None:
    """After close() a frame is refused as unavailable; close() twice is harmless to the store."""
    monitor = Monitor(Config(store=str(tmp_path)))
    monitor.start()
    monitor.close()
    assert monitor.trouble() == "the monitor is ending"
    with pytest.raises(Refusal, match="ending"):
        monitor.submit(read_frame(frame(), Limits()))


# -- the document, the pages, the headers --------------------------------------------------------------------------


def test_the_openapi_document_is_complete(http: Client) -> None:
    """Every operation has a summary, a model for 200, and one model for each error; ingest documents all its errors."""
    document = http.get_json("/openapi.json")
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        "POST /api/v1/frames",
        "GET /api/v1/runs",
        "GET /api/v1/runs/{run}",
        "GET /api/v1/runs/{run}/findings",
        "GET /api/v1/runs/{run}/tensors",
        "GET /api/v1/runs/{run}/series",
        "GET /metrics",
        "GET /healthz",
        "GET /readyz",
    }
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"], name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            (content,) = response["content"].values()
            if status != "200":
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, (name, status)
            elif name != "GET /metrics":
                assert content["schema"]["$ref"].startswith("#/components/schemas/")
    assert set(operations["POST /api/v1/frames"]["responses"]) == {
        "200", "400", "401", "409", "413", "415", "422", "429", "500", "503",
    }  # fmt: skip
    documented = {int(status) for one in operations.values() for status in one["responses"]}
    assert set(REASONS.values()) - {405} <= documented


def test_pages_show_the_findings_and_load_nothing_from_elsewhere(http: Client) -> None:
    """The message, what to do and the subject are there; no script, no other host, one style sheet."""
    http.push_all(faulty().frames)
    listed = http.get("/").text
    page = http.get("/runs/run").text
    (found,) = [
        one
        for one in http.get_json("/api/v1/runs/run/findings")["findings"]
        if one["detector"] == "slot-replaced"
    ]
    assert 'href="/runs/run"' in listed
    for text in (found["detector"], found["group"], "moe.expert_bias", "<polyline", "What to do"):
        assert text in page
    for html in (listed, page):
        assert "<script" not in html
        assert "style=" not in html
        assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
    assert http.get("/static/style.css").headers["content-type"].startswith("text/css")


def test_texts_from_a_sender_are_escaped(http: Client) -> None:
    """Names of runs and tensors are texts on a page, never HTML."""
    bad = "<script>alert(1)</script>"
    stream = Stream([tensor(f"{bad}.expert_bias", kind="buffer")], run=bad.replace("/", "|"))
    stream.step(values={"*": 1.0})
    stream.slot(f"{bad}.expert_bias", "object")
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames)
    for path in ("/", f"/runs/{quote(stream.run)}"):
        page = http.get(path).text
        assert "<script" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/runs", "/metrics", "/healthz", "/nothing", "/static/style.css"]
)
def test_every_answer_has_the_security_headers(http: Client, path: str) -> None:
    """Also errors: a strict policy, no sniffing, no framing, no referrer."""
    headers = http.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


def test_it_imports_and_serves_without_torch(tmp_path: Path) -> None:
    """In a process where torch cannot be imported: a frame goes in, a finding comes out, a page is shown."""
    blobs = tmp_path / "frames"
    blobs.mkdir()
    for number, blob in enumerate(faulty().frames):
        (blobs / f"{number:03d}").write_bytes(blob)
    code = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from tests.monitor.serving import serving
from trainvitals_monitor.config import Config
with serving(Config(store=sys.argv[1])) as http:
    http.push_all([path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())])
    print(http.get_json("/api/v1/runs/run/findings")["findings"][0]["detector"])
    assert http.get("/runs/run").status_code == 200
assert sys.modules["torch"] is None
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "store"), str(blobs)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_answers_are_json_that_other_languages_can_read(http: Client) -> None:
    """No NaN or Infinity anywhere, in no endpoint, even if the facts are full of them."""
    stream = Stream(["w"])
    for _ in range(5):
        stream.step(values={"w": float("nan")}, loss=float("inf"), lr=float("nan"))
    stream.flush()
    http.push_all(stream.frames)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in (
        "",
        "/run",
        "/run/findings",
        "/run/tensors",
        "/run/series?tensor=w",
        "/run/series?scalar=loss",
    ):
        json.loads(http.get(f"/api/v1/runs{path}").text, parse_constant=refuse)
    json.loads(http.push(stream.frames[0]).text, parse_constant=refuse)
    assert http.get("/runs/run").status_code == 200
    assert http.get("/metrics").status_code == 200


def _until(done: Any) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
