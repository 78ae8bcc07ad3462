"""
Frames survive the wire, and what is no frame is refused with a reason.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from trainvitals.errors import BadFrame
from trainvitals.facts import TABLES
from trainvitals.frame import Frame, Header, SlotChanged, TensorInfo, decode, encode


def header(**changes: object) -> Header:
    """A header with a few fields set."""
    given = {
        "agent_version": "0.1.0",
        "run": "run",
        "attempt": "a",
        "process": "p",
        "rank": 0,
        "world_size": 1,
        "seq": 0,
        "started_at": 1.0,
        "sent_at": 2.0,
        "first_step": 0,
        "complete_through": 3,
    }
    return Header(**{**given, **changes})  # type: ignore[arg-type]


def rows(table: str, length: int) -> dict[str, np.ndarray]:
    """A table filled with distinct numbers."""
    known = next(each for each in TABLES if each.name == table)
    names = [*known.keys, *(column.name for column in known.columns)]
    return {name: np.arange(length, dtype=known.dtype_of(name)) for name in names}


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_a_table_comes_back_as_it_was(table: str) -> None:
    """Each table's columns keep their values and the dtypes of facts."""
    sent = rows(table, 5)
    _, tables = decode(encode(Frame(header=header(), tables={table: sent})))
    assert tables[table].keys() == sent.keys()
    for name, values in sent.items():
        assert tables[table][name].dtype == values.dtype
        np.testing.assert_array_equal(tables[table][name], values)


def test_the_header_comes_back_as_it_was() -> None:
    """Tensor rows and events are plain JSON in the header; digests of all 64 bits survive."""
    info = TensorInfo(
        index=0, fqn="a", raw_fqn="module.a", kind="param", dtype="float32", shape=[2, 3]
    )
    event = SlotChanged(tensor=0, step=2, changes=["object"])
    digests = {**rows("digests", 1), "digest": np.array([2**64 - 1], np.uint64)}
    blob = encode(Frame(header=header(tensors=[info], events=[event]), tables={"digests": digests}))
    plain, tables = decode(blob)
    assert plain["tensors"][0]["raw_fqn"] == "module.a"
    assert plain["events"][0]["kind"] == "slot"
    assert int(tables["digests"]["digest"][0]) == 2**64 - 1


def test_nan_and_absence_are_kept_apart() -> None:
    """NaN is a value that was computed; an empty table is not sent at all."""
    sent = rows("values", 2)
    sent["norm"][1] = np.nan
    frame = Frame(header=header(), tables={"values": sent, "gradients": rows("gradients", 0)})
    _, tables = decode(encode(frame))
    assert np.isnan(tables["values"]["norm"][1])
    assert "gradients" not in tables


def test_anyone_can_open_a_frame() -> None:
    """The safetensors library reads a frame's columns under their full names."""
    columns = load(encode(Frame(header=header(), tables={"steps": rows("steps", 2)})))
    assert set(columns) == {"steps.step", "steps.time", "steps.seconds", "steps.agent_seconds"}


def test_a_newer_agents_columns_are_left_out() -> None:
    """Unknown tables and columns are ignored: neighbouring versions understand each other."""
    own = {f"steps.{name}": values for name, values in rows("steps", 2).items()}
    text = json.dumps({"schema_version": 1})
    extra = {"steps.moon": np.zeros(2), "moons.size": np.zeros(3)}
    _, tables = decode(save({**own, **extra}, {"header": text}))
    assert set(tables) == {"steps"}
    assert "moon" not in tables["steps"]


def frame_with(columns: dict[str, np.ndarray]) -> bytes:
    """A safetensors blob with a header and these columns."""
    return bytes(save(columns, {"header": "{}"}))


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (b"", "truncated"),
        (b"\x00" * 4, "truncated"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header of"),
        (struct.pack("<Q", 2) + b"{}", "no readable header"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "no readable header"),
        (save({}, {"header": "[1]"}), "not a JSON object"),
        (save({}, {"header": "[" * 100_000}), "no readable header"),
        (frame_with({"steps.step": np.zeros(2, np.float64)}), "must be I64"),
        (frame_with({"steps.step": np.zeros((2, 2), np.int64)}), "must have one"),
        (frame_with({"steps.time": np.zeros(2)}), "key column 'step'"),
        (
            frame_with({"steps.step": np.zeros(2, np.int64), "steps.time": np.zeros(3)}),
            "different lengths",
        ),
    ],
)
def test_what_is_no_frame_is_refused(blob: bytes, says: str) -> None:
    """Each way of being malformed is a BadFrame that says which."""
    with pytest.raises(BadFrame, match=says):
        decode(blob)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_frame_is_refused_or_read(position: int, byte: int) -> None:
    """No single damaged byte leads to anything but a frame or a BadFrame."""
    blob = bytearray(encode(Frame(header=header(), tables={"values": rows("values", 20)})))
    blob[position % len(blob)] = byte
    try:
        decode(bytes(blob))
    except BadFrame:
        return


@pytest.mark.parametrize(
    "tables",
    [
        {"moons": {"step": [1]}},
        {"steps": {"moon": [1]}},
        {"steps": {"step": [1], "time": [1.0, 2.0]}},
    ],
)
def test_a_writer_cannot_invent_columns(tables: dict[str, dict[str, list[float]]]) -> None:
    """Encoding what facts does not know fails on the writer's side."""
    arrays = {
        table: {name: np.array(values) for name, values in columns.items()}
        for table, columns in tables.items()
    }
    with pytest.raises(BadFrame):
        encode(Frame(header=header(), tables=arrays))
