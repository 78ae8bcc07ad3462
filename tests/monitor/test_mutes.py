"""
Acknowledging and muting: what stops, what goes on, who may, and what a restart keeps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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
