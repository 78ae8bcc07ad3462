"""
The API's reading side over real HTTP: runs, findings, tensors, series, and its OpenAPI document.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests.monitor.raw_frames import frame, header, values
from tests.monitor.runs import faulty, healthy
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream
from trainvitals_monitor.config import Config
from trainvitals_monitor.refusal import REASONS


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor with an empty store."""
    with serving(Config(store=str(tmp_path))) as client:
        yield client


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
        "GET /api/v1/runs/{run}/lock",
        "GET /api/v1/runs/{run}/comparison",
        "GET /api/v1/runs/{run}/series",
        "GET /api/v1/runs/{run}/worst",
        "GET /api/v1/mutes",
        "POST /api/v1/mutes",
        "DELETE /api/v1/mutes/{mute}",
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
    assert set(REASONS.values()) - {403, 405} <= documented  # 403: forms, which are of pages


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
