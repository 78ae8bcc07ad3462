"""
The pages, and what every answer carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.monitor.raw_frames import frame, header
from tests.monitor.runs import faulty
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.config import Config


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor with an empty store."""
    with serving(Config(store=str(tmp_path))) as client:
        yield client


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


def test_the_mesh_is_shown(http: Client) -> None:
    """Its axes with their sizes, and where each rank is on them; what is no place is passed over, and no mesh is no table."""
    places = ["dp=0/2 tp=0/2", "dp=0/2 tp=1/2", "dp=1/2 <b>tp", ""]
    for rank, mesh in enumerate(places):
        http.push_all([frame(header(rank=rank, world_size=4, process=f"p{rank}", mesh=mesh))])
    assert http.get_json("/api/v1/runs/run")["detail"]["mesh"] == {
        "axes": {"dp": 2, "tp": 2},
        "ranks": {"0": {"dp": 0, "tp": 0}, "1": {"dp": 0, "tp": 1}, "2": {"dp": 1}},
    }
    page = http.get("/runs/run").text
    assert "<dt>Mesh</dt><dd>dp 2 x tp 2</dd>" in page
    assert '<tr><td class="n">2</td><td class="n">1</td><td class="n">-</td></tr>' in page
    http.push_all(faulty("alone").frames)
    assert "Mesh" not in http.get("/runs/alone").text


def test_texts_from_a_sender_are_escaped(http: Client) -> None:
    """Names of runs and tensors are texts on a page, never HTML."""
    bad = "<script>alert(1)</script>"
    stream = Stream([tensor(f"{bad}.expert_bias", kind="buffer")], run=bad.replace("/", "|"))
    stream.step(values={"*": 1.0})
    stream.slot(f"{bad}.expert_bias", "object", outlived=2)
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
