"""
Hostile and broken frames: each gets a 4xx with a clear reason, is counted by that reason, and changes nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.monitor.raw_frames import frame, header, info, values
from tests.monitor.serving import FRAMES, OCTETS, Client, serving
from trainvitals.frame import MAX_HEADER_BYTES
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.ingest import check_run_name, read_frame
from trainvitals_monitor.refusal import REASONS, Refusal

LIMITS = Limits(body_bytes=8 << 20, tensors=1000, span_steps=1000, scalars=8, ranks=64)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A monitor with small limits."""
    store = str(tmp_path_factory.mktemp("store"))
    with serving(Config(store=store, limits=LIMITS)) as client:
        yield client


def _blob(size: int, text: bytes) -> bytes:
    return struct.pack("<Q", size) + text


def _metadata(text: str) -> bytes:
    outer = json.dumps({"__metadata__": {"header": text}}).encode()
    return _blob(len(outer), outer)


def _step(**fields: Any) -> list[dict[str, Any]]:
    return [{"kind": "slot", "tensor": 0, "step": 1, "changes": ["object"], **fields}]


WHOLE = frame()
HOSTILE: dict[str, tuple[str, bytes]] = {
    "empty": ("malformed", b""),
    "three bytes": ("malformed", b"abc"),
    "not safetensors": ("malformed", b"GET / HTTP/1.1\r\n\r\n" * 10),
    "truncated columns": ("malformed", WHOLE[:-1]),
    "truncated header": ("malformed", WHOLE[:40]),
    "trailing bytes": ("malformed", WHOLE + b"\0"),
    "header of 2^63 bytes": ("malformed", _blob((1 << 63) + 5, b"{}")),
    "header over 4 MB": ("malformed", _metadata("x" * (MAX_HEADER_BYTES + 1))),
    "header is no JSON": ("malformed", _metadata("{")),
    "header is a list": ("malformed", _metadata("[]")),
    "header is no UTF-8": ("malformed", _blob(4, b'"\xff\xfe"')),
    "deep JSON": ("malformed", _metadata("[" * 200_000 + "]" * 200_000)),
    "deep JSON inside": ("malformed", _metadata('{"a":' * 100_000 + "1" + "}" * 100_000)),
    "absurd integer": ("malformed", _metadata('{"schema_version": ' + "9" * 10_000 + "}")),
    "no version": (
        "invalid-header",
        frame({k: v for k, v in header().items() if k != "schema_version"}),
    ),
    "version true": ("invalid-header", frame(header(schema_version=True))),
    "newer version": ("wrong-version", frame(header(schema_version=2))),
    "older version": ("wrong-version", frame(header(schema_version=0))),
    "no run": ("invalid-header", frame({k: v for k, v in header().items() if k != "run"})),
    "run is a number": ("invalid-header", frame(header(run=5))),
    "run too long": ("invalid-header", frame(header(run="r" * 201))),
    "run with a line break": ("invalid-header", frame(header(run="a\nb"))),
    "run with a null": ("invalid-header", frame(header(run="a\0b"))),
    "run is empty": ("invalid-header", frame(header(run=""))),
    "run with a lone surrogate": ("invalid-header", frame(header(run="a\ud800b"))),
    "run turned right to left": ("invalid-header", frame(header(run="a\u202eb"))),
    "run of dots": ("invalid-run-name", frame(header(run="../../etc"))),
    "run like a page": ("invalid-run-name", frame(header(run="a/findings"))),
    "attempt is empty": ("invalid-header", frame(header(attempt=""))),
    "rank beyond world": ("invalid-header", frame(header(rank=1))),
    "negative rank": ("invalid-header", frame(header(rank=-1))),
    "world of none": ("invalid-header", frame(header(world_size=0))),
    "world over the limit": ("over-limit", frame(header(world_size=65))),
    "negative seq": ("invalid-header", frame(header(seq=-1))),
    "seq of 2^63": ("invalid-header", frame(header(seq=1 << 63))),
    "seq is NaN": ("invalid-header", frame(header(seq=float("nan")))),
    "step of 2^63": ("invalid-header", frame(header(complete_through=1 << 63))),
    "step is infinite": ("invalid-header", frame(header(first_step=float("inf")))),
    "offset of 2^60": ("invalid-header", frame(header(step_offset=1 << 60))),
    "sent at NaN": ("invalid-header", frame(header(sent_at=float("nan")))),
    "unknown phase": ("invalid-header", frame(header(phase="asleep"))),
    "negative drop": ("invalid-header", frame(header(dropped={"frames": -1}))),
    "too many scalars": ("over-limit", frame(header(scalars=[f"s{i}" for i in range(9)]))),
    "tensor index over the limit": ("over-limit", frame(header(tensors=[info(index=1000)]))),
    "tensor index of 2^40": ("invalid-header", frame(header(tensors=[info(index=1 << 40)]))),
    "negative tensor index": ("invalid-header", frame(header(tensors=[info(index=-1)]))),
    "nameless tensor": ("invalid-header", frame(header(tensors=[info(fqn="")]))),
    "negative dim": ("invalid-header", frame(header(tensors=[info(shape=[-1])]))),
    "absurd shape": ("invalid-header", frame(header(tensors=[info(shape=[1 << 50, 1 << 50])]))),
    "too many dims": ("invalid-header", frame(header(tensors=[info(shape=[1] * 100)]))),
    "shape of floats": ("invalid-header", frame(header(tensors=[info(shape=[1.5])]))),
    "unknown layout": ("invalid-header", frame(header(tensors=[info(layout="spiral")]))),
    "event about step -5": ("invalid-header", frame(header(events=_step(step=-5)))),
    "event about tensor 2^40": ("invalid-header", frame(header(events=_step(tensor=1 << 40)))),
    "events are a dict": ("invalid-header", frame(header(events={"a": 1}))),
    "contract is nonsense": (
        "invalid-header",
        frame(header(contract={"dtypes": {"w": "float33"}})),
    ),
    "negative tensor in a column": ("invalid-columns", frame(columns=values(tensor=[-1]))),
    "huge tensor in a column": ("invalid-columns", frame(columns=values(tensor=[2**31 - 1]))),
    "negative step in a column": ("invalid-columns", frame(columns=values(step=[-7]))),
    "step 2^62 in a column": ("invalid-columns", frame(columns=values(step=[1 << 62]))),
    "step far beyond what is complete": ("invalid-columns", frame(columns=values(step=[1002]))),
    "a thousand steps": (
        "over-limit",
        frame(header(complete_through=5000), values([0, 0], [1, 2000], [1.0, 1.0])),
    ),
    "column of another dtype": (
        "malformed",
        frame(columns={**values(), "values.norm": np.zeros(1, np.float32)}),
    ),
    "column of two dims": (
        "malformed",
        frame(columns={**values(), "values.norm": np.zeros((1, 1))}),
    ),
    "columns of unequal length": ("malformed", frame(columns=values(norm=[1.0, 2.0]))),
    "no key column": ("malformed", frame(columns={"values.norm": np.zeros(1)})),
    "scalar without a name": (
        "invalid-columns",
        frame(
            columns={
                "scalars.scalar": np.zeros(1, np.int32),
                "scalars.step": np.ones(1, np.int64),
                "scalars.value": np.ones(1),
            }
        ),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame_is_refused_counted_and_changes_nothing(http: Client, name: str) -> None:
    """A 4xx with the reason and a sentence; the counter of that reason grows; no run has appeared."""
    reason, blob = HOSTILE[name]
    before = http.metric("trainvitals_monitor_frames_refused_total", reason=reason)
    runs = http.get_json("/api/v1/runs")
    response = http.push(blob)
    answer = response.json()
    assert (response.status_code, answer["error"]) == (REASONS[reason], reason), answer
    assert 400 <= response.status_code < 500
    assert len(answer["detail"]) > 10
    assert http.metric("trainvitals_monitor_frames_refused_total", reason=reason) == before + 1
    assert http.get_json("/api/v1/runs") == runs
    assert http.get("/readyz").status_code == 200


def test_an_announced_body_over_the_limit_is_refused_before_it_is_read(http: Client) -> None:
    """Content-Length alone is enough for a 413."""
    response = http.push(b"x" * (LIMITS.body_bytes + 1))
    assert (response.status_code, response.json()["error"]) == (413, "too-large")


def test_a_chunked_body_over_the_limit_is_refused(http: Client) -> None:
    """A body of unknown length is cut off at the limit."""

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 20)

    response = http.post(FRAMES, content=endless(), headers=OCTETS)
    assert (response.status_code, response.json()["error"]) == (413, "too-large")


def test_a_chunked_body_within_the_limit_is_read(http: Client, tmp_path: Path) -> None:
    """A sender may stream a frame."""
    with serving(Config(store=str(tmp_path), limits=LIMITS)) as other:
        response = other.post(FRAMES, content=iter([WHOLE[:50], WHOLE[50:]]), headers=OCTETS)
        assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, gzip"])
def test_compressed_bodies_are_refused(http: Client, encoding: str) -> None:
    """Content-Encoding is never decoded: nothing can be made large here."""
    response = http.push(WHOLE, **{"content-encoding": encoding})
    assert (response.status_code, response.json()["error"]) == (415, "wrong-encoding")


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data", ""])
def test_other_content_types_are_refused(http: Client, kind: str) -> None:
    """A browser could post these types from a foreign page without asking first."""
    response = http.push(WHOLE, **{"content-type": kind})
    assert (response.status_code, response.json()["error"]) == (415, "wrong-type")


def test_what_a_newer_agent_adds_is_left_out() -> None:
    """Unknown fields, events, tables and columns of the same schema are no reason to refuse."""
    head = header(mood="fine", events=[{"kind": "eclipse", "step": 1}])
    columns = {**values(), "values.aura": np.zeros(1), "auras.hue": np.zeros(7)}
    arrival = read_frame(frame(head, columns), LIMITS)
    assert arrival.header.events == []
    assert set(arrival.tables) == {"values"}
    assert set(arrival.tables["values"]) == {"tensor", "step", "norm"}


def test_nan_and_infinity_are_values_like_others() -> None:
    """Non-finite statistics are facts, not errors."""
    arrival = read_frame(frame(columns=values([0, 0], [1, 1], [np.nan, np.inf])), LIMITS)
    assert not np.isfinite(arrival.tables["values"]["norm"]).any()


def test_the_last_step_that_a_frame_speaks_of_is_known() -> None:
    """Rows may be ahead of what is complete; retention goes by them."""
    assert read_frame(frame(columns=values(step=[9])), LIMITS).last_step == 9
    assert read_frame(frame(header(complete_through=12)), LIMITS).last_step == 12


@pytest.mark.parametrize(
    "name", ["a", "exp 7", "team/exp", "\u5b9f\u9a13/1", "findings", "a%2Fb", "a?b#c"]
)
def test_usual_and_odd_run_names_are_fine(name: str) -> None:
    """Slashes, spaces, other scripts and URL characters are allowed."""
    check_run_name(name)


@pytest.mark.parametrize(
    "name", ["", " a", "/a", "a/", "a//b", "a/../b", ".", "a/series", "a\u200bb"]
)
def test_names_that_could_not_be_shown_or_addressed_are_refused(name: str) -> None:
    """Empty parts, dots, reserved ends and invisible characters are not."""
    with pytest.raises(Refusal) as refused:
        check_run_name(name)
    assert refused.value.reason == "invalid-run-name"


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_frames_are_accepted_or_refused_and_never_a_fault(
    http: Client, data: st.DataObject
) -> None:
    """Whatever bytes of a sound frame are changed, cut or doubled: 200 or 4xx, and the monitor stays ready."""
    blob = bytearray(frame(header(run="fuzz", seq=data.draw(st.integers(0, 50)))))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(blob) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "double", "insert"]))
        if kind == "set":
            blob[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del blob[at : at + data.draw(st.integers(1, 40))]
        elif kind == "double":
            blob[at:at] = blob[at : at + 40]
        else:
            blob[at:at] = data.draw(st.binary(max_size=8))
        if not blob:
            break
    response = http.push(bytes(blob))
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    assert http.monitor.trouble() == ""
    assert not http.monitor.counters.errors


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    field=st.sampled_from([*header(), "events", "dropped", "contract", "about", "scalars"]),
    value=_JSON,
)
def test_any_value_in_any_header_field_is_accepted_or_refused(
    http: Client, field: str, value: Any
) -> None:
    """No value of any type in any field of the header makes a fault."""
    response = http.push(frame(header(**{"run": "fuzz-2", field: value})))
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    assert not http.monitor.counters.errors
