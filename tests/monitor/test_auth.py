"""
Who may ask for what: tokens, their scopes, loopback's names, and the settings that are refused.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from tests.monitor.raw_frames import frame
from tests.monitor.serving import FRAMES, Client, serving
from trainvitals_monitor.app import create_app
from trainvitals_monitor.auth import OPEN_PATHS
from trainvitals_monitor.config import Config, read_token_file
from trainvitals_monitor.routes import ROUTERS

INGEST, READ = "ingest-token-1", "read-token-22"
SHORT, BROKEN = "short", "with\nline-break"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - it is what must be refused


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A monitor with both tokens."""
    store = str(tmp_path_factory.mktemp("store"))
    with serving(Config(store=store, ingest_token=INGEST, read_token=READ)) as client:
        yield client


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_no_route_is_open_but_those_listed(http: Client) -> None:
    """Every GET route of the application asks for the token, also ones that are added later."""
    paths = [
        route.path for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)
    ]
    assert len(paths) > 10
    for path in paths:
        status = http.get(path.replace("{run:path}", "x")).status_code
        assert (status in (401, 405)) == (path not in OPEN_PATHS), path


def test_a_401_says_which_token_and_how(http: Client) -> None:
    """The answer names the header to send, and offers browsers a way to log in."""
    response = http.get("/api/v1/runs")
    assert response.json()["error"] == "unauthorized"
    assert "Authorization: Bearer" in response.json()["detail"]
    assert response.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    "token", ["wrong", READ, INGEST[:-1], INGEST + "x", "t\u00f6ken", "\xff\xfe"]
)
def test_a_frame_needs_the_ingest_token(http: Client, token: str) -> None:
    """No other token does, the read token included; the refusal is counted."""
    headers = {
        b"Authorization": f"Bearer {token}".encode("latin-1"),
        b"Content-Type": b"application/octet-stream",
    }
    assert http.post(FRAMES, content=frame(), headers=headers).status_code == 401
    assert http.get("/api/v1/runs", headers=_bearer(READ)).json() == {"runs": []}


def test_refused_senders_are_counted(http: Client) -> None:
    """A wrong ingest token shows in the metrics."""
    before = http.monitor.counters.refused["unauthorized"]
    http.push(frame(), **_bearer("wrong"))
    assert http.monitor.counters.refused["unauthorized"] == before + 1


def test_reading_needs_the_read_token(http: Client) -> None:
    """As a bearer token, or as the password of a browser's login; the ingest token reads nothing."""
    basic = base64.b64encode(f"anyone:{READ}".encode()).decode()
    for headers, status in (
        (_bearer(READ), 200),
        ({"authorization": f"bearer {READ}"}, 200),
        ({"authorization": f"Basic {basic}"}, 200),
        (_bearer(INGEST), 401),
        ({"authorization": "Basic !!!"}, 401),
        ({"authorization": READ}, 401),
        ({"authorization": f"Digest {READ}"}, 401),
    ):
        for path in ("/", "/api/v1/runs", "/metrics"):
            assert http.get(path, headers=headers).status_code == status, (headers, path)


def test_with_the_right_tokens_all_goes_its_way(tmp_path: Path) -> None:
    """A frame in, the run out."""
    with serving(Config(store=str(tmp_path), ingest_token=INGEST, read_token=READ)) as http:
        assert http.push(frame(), **_bearer(INGEST)).status_code == 200
        runs = http.get("/api/v1/runs", headers=_bearer(READ)).json()["runs"]
        assert [run["run"] for run in runs] == ["run"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8420", 200),
        ("[::1]:8420", 200),
        ("vitals.example", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(
    tmp_path: Path, host: str, status: int
) -> None:
    """A foreign page whose name was pointed at 127.0.0.1 reads nothing; the public URL's name is fine."""
    with serving(Config(store=str(tmp_path), public_url="https://vitals.example")) as http:
        assert http.get("/api/v1/runs", headers={"host": host}).status_code == status
        assert http.push(frame(), host=host).status_code == status
        assert http.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(host=EVERYWHERE), "can be reached by others"),
        (Config(host="10.0.0.1", ingest_token=INGEST), "can be reached by others"),
        (Config(host="monitor.example", read_token=READ), "can be reached by others"),
        (Config(port=70000), "port 70000"),
        (Config(public_url="vitals.example"), "must start with http"),
        (Config(idle_exit_s=0.0), "must be above 0"),
        (Config(ingest_token=SHORT), "at least 8"),
        (Config(read_token=BROKEN), "no line breaks"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    config: Config, words: str, tmp_path: Path
) -> None:
    """One line, before the store is opened."""
    with pytest.raises(ValueError, match=words) as refused:
        create_app(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        Config(host=EVERYWHERE, ingest_token=INGEST, read_token=READ),
        Config(host=EVERYWHERE, insecure=True),
        Config(host="::1"),
        Config(host="127.8.8.8"),
        Config(host="localhost"),
    ],
)
def test_tokens_loopback_or_a_clear_word_are_enough(config: Config) -> None:
    """Each of these is fine."""
    config.check()


def test_a_token_is_not_shown_by_its_config() -> None:
    """Logs and tracebacks may show a Config."""
    assert INGEST not in repr(Config(ingest_token=INGEST, read_token=READ))


def test_a_token_file_must_be_ours_alone(tmp_path: Path) -> None:
    """Read without its line end; refused if missing, empty or open to every user."""
    path = tmp_path / "token"
    path.write_text(f"{INGEST}\n")
    path.chmod(0o600)
    assert read_token_file(path) == INGEST
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_token_file(path)
    path.write_text("\n")
    os.chmod(path, 0o600)
    with pytest.raises(ValueError, match="empty"):
        read_token_file(path)
    with pytest.raises(ValueError, match="No such file"):
        read_token_file(tmp_path / "nothing")
