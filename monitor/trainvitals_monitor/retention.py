"""
What is kept of a frame once its steps rest in chunks: only what a restart needs to know that chunks don't say.

That is the tensor rows, the events, the manifests of checkpoints, and each rank's first digests. Most frames have none
of these and are forgotten entirely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainvitals.frame import Header
from trainvitals_monitor.packed import pack_frame, unpack_frame

_KEPT_TABLES = frozenset({"manifest"})
_FIRST_TABLES = frozenset({"digests"})


def is_lasting(header: Header, tables: Mapping[str, Any], first_digests: bool) -> bool:
    """Whether something of the frame must outlive its steps. `first_digests`: it has the rank's first ones."""
    return bool(header.tensors or header.events or "manifest" in tables or first_digests)


def shrunk(blob: bytes, first_digests: bool) -> bytes:
    """The packed frame with what lasts."""
    header, tables = unpack_frame(blob)
    kept = _KEPT_TABLES | (_FIRST_TABLES if first_digests else frozenset())
    return pack_frame(header, {name: rows for name, rows in tables.items() if name in kept})
