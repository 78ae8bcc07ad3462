"""
Plain data as YAML that people can read: enough of it for the files made here, so that no library is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./*-]*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def document(comment: str, data: Mapping[str, Any]) -> str:
    """The file's text, with a comment at its head."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "\n".join(_mapping(data, 0)) + "\n"


def _mapping(data: Mapping[str, Any], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for key, value in data.items():
        name = f"{pad}{_scalar(key)}:"
        if isinstance(value, Mapping) and value:
            yield name
            yield from _mapping(value, depth + 1)
        elif isinstance(value, (list, tuple)) and value:
            yield name
            yield from _sequence(value, depth + 1)
        else:
            yield f"{name} {_scalar(value)}"


def _sequence(data: Sequence[Any], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for value in data:
        if isinstance(value, Mapping) and value:
            first, *rest = _mapping(value, depth + 1)
            yield f"{pad}- {first.strip()}"
            yield from rest
        else:
            yield f"{pad}- {_scalar(value)}"


def _scalar(value: Any) -> str:
    """JSON is YAML; a word needs no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value)
