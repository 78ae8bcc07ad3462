"""
Frames as a sender could write them, right or wrong: the header is plain data, the columns are what they are given as.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save


def header(**fields: Any) -> dict[str, Any]:
    """A sound header of one rank, first frame, one tensor, step 1; but for what is given."""
    return {
        "schema_version": 1,
        "agent_version": "0.1",
        "run": "run",
        "attempt": "attempt-1",
        "process": "p",
        "rank": 0,
        "world_size": 1,
        "seq": 0,
        "started_at": 1.0,
        "sent_at": 2.0,
        "first_step": 1,
        "complete_through": 1,
        "tensors": [info()],
        **fields,
    }


def info(**fields: Any) -> dict[str, Any]:
    """A row of the tensor table."""
    return {
        "index": 0,
        "fqn": "w",
        "raw_fqn": "w",
        "kind": "param",
        "dtype": "float32",
        "shape": [4],
        **fields,
    }


def values(tensor: Any = (0,), step: Any = (1,), norm: Any = (1.0,)) -> dict[str, Any]:
    """Columns of the table "values", named as on the wire."""
    return {
        "values.tensor": np.asarray(tensor, np.int32),
        "values.step": np.asarray(step, np.int64),
        "values.norm": np.asarray(norm, np.float64),
    }


def frame(head: dict[str, Any] | None = None, columns: dict[str, Any] | None = None) -> bytes:
    """The blob, whatever is in it."""
    text = json.dumps(header() if head is None else head)
    return bytes(save(values() if columns is None else columns, {"header": text}))
