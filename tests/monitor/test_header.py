"""
Headers: what a sender may say, and the sentence that it hears when it says something else.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from tests.monitor.stream import Stream, feed, tensor
from trainvitals.errors import BadFrame
from trainvitals.frame import ForeignParameter, Header, OptimizersSeen, SlotChanged, decode
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.header import MAX_TENSORS, contract_of, validate_header

LOCKED = {"kind": "param", "dtype": "float32", "shape": [2]}
INFO = asdict(tensor("w"))
SLOT = asdict(SlotChanged(tensor=0, step=1, changes=["object"]))
STRAY = asdict(OptimizersSeen(step=1, optimizers=["A"], group_optimizer=[0], group_tensors=[[]]))
FOREIGN = asdict(ForeignParameter(group=0, shape=[2], dtype="float32", has_gradient=True))
SAVE = {"kind": "checkpoint", "number": 0, "op": "save", "api": "torch.save", "step": 1}


def plain(**fields: Any) -> dict[str, Any]:
    """A sound header as JSON gives it, but for these fields."""
    header = Header(
        agent_version="0", run="r", attempt="a", process="p", rank=0, world_size=1, seq=1, started_at=1.0,
        sent_at=2.0, first_step=1, complete_through=1,
    )  # fmt: skip
    return {**asdict(header), **fields}


def test_a_sound_header_comes_back_as_its_class() -> None:
    """Rows and events are dataclasses again, each event of its kind."""
    header = validate_header(plain(tensors=[INFO], events=[SLOT, SAVE]))
    assert header.tensors == [tensor("w")]
    assert [type(event).__name__ for event in header.events] == ["SlotChanged", "CheckpointSeen"]


def test_what_a_newer_agent_adds_is_left_out() -> None:
    """Unknown fields and unknown kinds of events are no fault."""
    header = validate_header(
        plain(
            novelty=1,
            events=[{"kind": "novelty", "x": 1}, {**SLOT, "novelty": 2}],
            contract={"novelty": 3},
        )
    )
    assert [event.kind for event in header.events] == ["slot"]
    assert contract_of(header).ignore == ()


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_schema_is_refused(version: object) -> None:
    """The sentence says which schema this monitor reads."""
    with pytest.raises(BadFrame, match="this monitor reads schema 1"):
        validate_header(plain(schema_version=version))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rank": 1}, "rank=1: must be 0 to world_size - 1 = 0"),
        ({"rank": -1}, "rank=-1"),
        ({"world_size": 0}, "world_size=0"),
        ({"world_size": "many"}, "world_size: .* given: 'many'"),
        ({"seq": -1}, "seq=-1"),
        ({"seq": 2**70}, "seq"),
        ({"complete_through": -2}, "complete_through=-2"),
        ({"step_offset": 2**60}, "step_offset"),
        ({"started_at": float("nan")}, "started_at=nan"),
        ({"sent_at": float("inf")}, "sent_at=inf"),
        ({"run": ""}, "run='': must be 1 to 200 printable"),
        ({"run": "a\nb"}, "run="),
        ({"attempt": "x" * 201}, "attempt="),
        ({"phase": "asleep"}, "phase"),
        ({"dropped": {"rows": -1}}, "dropped"),
        ({"scalars": ["x" * 300]}, "scalar name"),
        ({"tensors": [{**INFO, "index": -1}]}, "tensor index -1"),
        ({"tensors": [{**INFO, "index": MAX_TENSORS}]}, "tensor index"),
        ({"tensors": [{**INFO, "fqn": "a\x00b"}]}, "tensor name"),
        ({"tensors": [{**INFO, "shape": [-1]}]}, "shape must be"),
        ({"tensors": [{**INFO, "shape": [1] * 99}]}, "shape must be"),
        ({"tensors": [{**INFO, "offsets": [1]}]}, "offsets and sizes differ"),
        ({"tensors": [{**INFO, "tied_to": -2}]}, "tied_to=-2 must be -1 to"),
        ({"tensors": [{**INFO, "tied_to": 2**31}]}, f"tied_to={2**31} must be -1 to"),
        ({"tensors": [{**INFO, "layout": "round"}]}, r"tensors\.0\.layout"),
        ({"tensors": "none"}, "tensors"),
        ({"events": "none"}, "events must be a list"),
        ({"events": [7]}, "events|Input|0"),
        ({"events": [{"step": 1}]}, "kind|tag"),
        ({"events": [{**SLOT, "step": -1}]}, "step=-1"),
        ({"events": [{**SLOT, "tensor": -1}]}, "is no index"),
        ({"events": [{**SLOT, "outlived": 2**63}]}, "outlived="),
        ({"events": [{**STRAY, "foreign": [{**FOREIGN, "group": 2**63}]}]}, "group="),
        ({"events": [{**STRAY, "foreign": [{**FOREIGN, "shape": [2**63]}]}]}, "a shape must be"),
        ({"events": [{**SAVE, "keys": ["a"]}]}, "as long as keys"),
        ({"events": [{**SAVE, "keys": ["a"], "tensors": [-2], "dtypes": ["x"], "shapes": [[]]}]}, "indices, or -1"),
        ({"contract": {"dtypes": {"*": "float33"}}}, "contract: .*no such dtype"),
        ({"contract": {"ignore": 7}}, "contract: ignore"),
        ({"contract": {"frozen": ["a\x00"]}}, "contract: name"),
        ({"contract": {"thresholds": {"d": {"*": {"t": math.nan}}}}}, "finite numbers"),
        ({"contract": {"lock": {"tensors": {"{0-9}.{0-99999}": LOCKED}}}}, "at most 100000"),
        ({"contract": {"lock": {"tensors": {"w": {**LOCKED, "shape": [-1]}}}}}, "no dtype and shape"),
        ({"contract": {"lock": {"tensors": {"w": {**LOCKED, "kind": "x"}}}}}, "contract: lock"),
        ({"run": None}, "run"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], sentence: str) -> None:
    """The sentence names the field and what was given."""
    with pytest.raises(BadFrame, match=sentence):
        validate_header(plain(**fields))


def test_a_missing_field_is_named() -> None:
    """The first missing field is in the sentence."""
    header = plain()
    del header["attempt"]
    with pytest.raises(BadFrame, match="attempt: Field required"):
        validate_header(header)


def test_rows_about_tensors_that_were_never_named_are_refused() -> None:
    """A frame that is due must keep to its rank's tensor table; it changes nothing."""
    stream = Stream(["a", "b"])
    stream.step(values={"*": 1.0})
    stream.flush()
    engine = Engine("run", [])
    feed(engine, stream.frames[:1])
    header, tables = decode(stream.frames[1])
    values = {**tables["values"], "tensor": tables["values"]["tensor"] + 1}
    with pytest.raises(BadFrame, match="is about tensor 2; the rank has named 2"):
        engine.ingest(validate_header(header), {**tables, "values": values})
    assert engine.summary()["judged_steps"] == 0
    feed(engine, stream.frames[1:])
    assert engine.summary()["judged_steps"] == 1
