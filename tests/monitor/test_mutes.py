"""
Acknowledging and muting: what stops, what goes on, who may, and what a restart keeps.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.monitor.runs import faulty
from tests.monitor.serving import Client, serving
from trainvitals_monitor.config import Config
from trainvitals_monitor.metrics import scrape

ACTIVE = "trainvitals_finding_active"
INGEST, READER, OPERATOR = "ingest-token", "reader-token", "operator-token"


def _mute(http: Client, status: int = 200, **wanted: Any) -> Any:
    response = http.post("/api/v1/mutes", json={"run": "run", "reason": "known", **wanted})
    assert response.status_code == status, response.text
    return response.json()


def _finding(http: Client) -> Any:
    return http.get_json("/api/v1/runs/run/findings")["findings"][0]


def _active(http: Client) -> float:
    return http.metric(ACTIVE, run="run", detector=_finding(http)["detector"])


def test_an_acknowledged_finding_is_not_alerted_and_a_restart_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric drops it, the API and the page have it; taken back it counts again."""
    monkeypatch.setattr(scrape, "ABANDONED_S", math.inf)  # the made-up run's clock is long past
    config = Config(store=str(tmp_path))
    with serving(config) as http:
        http.push_all(faulty().frames)
        assert _active(http) == 1
        made = _mute(http, finding=_finding(http)["id"], reason="Ann: fixed in the next run")
        assert _active(http) == 0
        assert http.metric("trainvitals_findings_muted", run="run") == 1
        assert "Ann: fixed in the next run" in http.get("/runs/run").text
    with serving(config) as http:
        assert _active(http) == 0
        assert http.get_json("/api/v1/mutes")["mutes"] == [made]
        assert http.delete(f"/api/v1/mutes/{made['id']}").json() == {"mutes": []}
        assert _active(http) == 1
        assert http.delete(f"/api/v1/mutes/{made['id']}").status_code == 404


@pytest.mark.parametrize(
    ("wanted", "active"),
    [
        ({"run": "ru*", "detector": "*"}, 0),
        ({"detector": "no-such-*"}, 1),
        ({"tensor": "nothing.*"}, 1),
        ({"hours": 1}, 0),
        ({"hours": 1e-9}, 1),
    ],
)
def test_patterns(tmp_path: Path, wanted: dict[str, Any], active: int) -> None:
    """By run, detector and tensors, for a time."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        _mute(http, **wanted)
        assert _active(http) == active


def test_a_whole_run_is_muted_by_all_patterns_alone(tmp_path: Path) -> None:
    """Then nothing of it is alerted, not even that it vanishes; one detector's mute leaves the run its voice."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        _mute(http, detector="slot-*")
        assert http.metric("trainvitals_run_muted", run="run") == 0
        _mute(http, run="ru*")
        assert http.metric("trainvitals_run_muted", run="run") == 1


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    """An unknown finding, a missing reason, and a form that a foreign page could send."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        _mute(http, 404, finding="no-such")
        _mute(http, 422, reason="")
        _mute(http, 422, hours=-1)
        form = http.post("/api/v1/mutes", content=b"{}", headers={"content-type": "text/plain"})
        assert form.status_code in (415, 422)
        assert http.get_json("/api/v1/mutes") == {"mutes": []}


@pytest.mark.parametrize("operator", [OPERATOR, None])
def test_only_the_operator_may(tmp_path: Path, operator: str | None) -> None:
    """Neither the read nor the ingest token will do; without an operator token nobody may, once there are tokens."""
    config = Config(
        store=str(tmp_path), ingest_token=INGEST, read_token=READER, operator_token=operator
    )
    with serving(config) as http:
        for given in (INGEST, READER, OPERATOR):
            http.headers["authorization"] = f"Bearer {given}"
            may = given == operator
            _mute(http, 200 if may else 401)
            assert (http.delete("/api/v1/mutes/x").status_code == 404) == may
        http.headers["authorization"] = f"Bearer {READER}"
        assert http.get("/api/v1/mutes").status_code == 200


WORD = re.compile(r'name="word" value="([^"]+)"')


def _send(http: Client, path: str = "/mutes", **fields: str) -> httpx.Response:
    """The form as a browser sends it from the run's page."""
    word = WORD.search(http.get("/runs/run").text)
    given = {"word": word[1] if word else "", "run": "run", "reason": "Ann: known", **fields}
    return http.post(path, data=given)


def test_the_page_acknowledges_and_takes_back(tmp_path: Path) -> None:
    """By a form, without a script: back on the run's page the reason stands there, and a button that ends it."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        found = _finding(http)
        assert "Take back" not in http.get("/runs/run").text
        done = _send(http, what="finding", finding=found["id"], hours="24")
        assert done.status_code == 303
        assert done.headers["location"] == f"/runs/run#{found['id']}"
        page = http.get("/runs/run").text
        assert "Acknowledged: Ann: known, until " in page
        assert _active(http) == 0
        assert _finding(http)["muted"] == "Ann: known"
        (made,) = http.get_json("/api/v1/mutes")["mutes"]
        assert _send(http, f"/mutes/{made['id']}/remove").status_code == 303
        assert _active(http) == 1


@pytest.mark.parametrize(("what", "whole"), [("detector", 0), ("run", 1)])
def test_the_page_mutes_more_than_a_finding(tmp_path: Path, what: str, whole: int) -> None:
    """All of a detector in the run, or the run as a whole."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        assert "Mute this run" in http.get("/runs/run").text
        done = _send(http, what=what, detector=_finding(http)["detector"], hours="")
        assert done.status_code == 303
        assert _active(http) == 0
        assert http.metric("trainvitals_run_muted", run="run") == whole
        assert ("Mute this run" not in http.get("/runs/run").text) == whole


def test_a_runs_name_is_no_pattern_on_its_page(tmp_path: Path) -> None:
    """Muting `sweep [1]*` there leaves `sweep 1x` alone."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty("sweep [1]*").frames)
        http.push_all(faulty("sweep 1x").frames)
        word = WORD.search(http.get("/runs/sweep 1x").text)
        assert word
        fields = {"word": word[1], "run": "sweep [1]*", "what": "run", "reason": "Ann"}
        assert http.post("/mutes", data=fields).status_code == 303
        assert http.metric("trainvitals_run_muted", run="sweep [1]*") == 1
        assert http.metric("trainvitals_run_muted", run="sweep 1x") == 0


def test_a_runs_own_name_mutes_it(tmp_path: Path) -> None:
    """Also one that as a pattern would not match itself."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty("sweep [1]").frames)
        _mute(http, run="sweep [1]")
        assert http.metric("trainvitals_run_muted", run="sweep [1]") == 1


def test_forms_of_other_sites_are_refused(tmp_path: Path) -> None:
    """Without the word of our pages, or by what the browser says of where the form stood; nor are other bodies taken."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(faulty().frames)
        fields = {"what": "run"}
        assert _send(http, **fields, word="guessed").status_code == 403
        http.headers["sec-fetch-site"] = "cross-site"
        assert _send(http, **fields).status_code == 403
        http.headers["sec-fetch-site"] = "same-origin"
        assert _send(http, **fields, reason=" ").status_code == 422
        assert _send(http, what="all").status_code == 422
        assert _send(http, what="finding").status_code == 422
        assert _send(http, **fields, hours="-1").status_code == 422
        assert _send(http, **fields, reason="x" * 9000).status_code == 413
        assert http.post("/mutes", json=fields).status_code == 415
        assert http.get_json("/api/v1/mutes") == {"mutes": []}
        assert _send(http, **fields).status_code == 303


def test_a_browser_logs_in_as_operator(tmp_path: Path) -> None:
    """The read token shows the page and is asked for more at the form; the operator's does both; else no form is shown."""
    guarded = Config(store=str(tmp_path / "a"), ingest_token=INGEST, read_token=READER)
    with serving(replace(guarded, operator_token=OPERATOR)) as http:
        http.headers["authorization"] = f"Bearer {INGEST}"
        http.push_all(faulty().frames)
        del http.headers["authorization"]
        http.auth = ("ann", READER)
        refused = _send(http, what="run")
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        http.auth = ("ann", OPERATOR)
        assert _send(http, what="run").status_code == 303
    with serving(replace(guarded, store=str(tmp_path / "b"))) as http:
        http.headers["authorization"] = f"Bearer {INGEST}"
        http.push_all(faulty().frames)
        http.headers["authorization"] = f"Bearer {READER}"
        assert "<form" not in http.get("/runs/run").text
        assert _send(http, what="run").status_code == 401
