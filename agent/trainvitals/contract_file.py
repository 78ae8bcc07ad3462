"""
A contract as a file (TOML): declarations that people write, and the lock that `trainvitals contract write` makes.

docs/contract.md shows one. Read before the first step, so that what can't be meant is refused with its line; no torch.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from trainvitals.contract import Contract
from trainvitals.errors import BadSetting
from trainvitals.lock import Lock, LockedTensor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_NAME = "trainvitals.lock.toml"
_MAX_BYTES = 8 << 20
_TENSOR_KEYS = ("dtype", "shape", "trainable", "persistent", "moves", "late")
_LOCK_KEYS = ("first_step", "last_step", "moved_within", "params", "buffers")


class _Wrong(ValueError):
    """What can't be meant, and the word of the file near which it stands."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


def read_contract(path: str | os.PathLike[str]) -> Contract:
    """
    The contract that the file holds.

    Raises BadSetting with the file, the line, what stands there and what is allowed.
    """
    name = os.fspath(path)
    try:
        if Path(name).stat().st_size > _MAX_BYTES:
            raise BadSetting(f"contract {name!r}: larger than {_MAX_BYTES >> 20} MB")
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(
            f"contract {name!r} can't be read ({error}); "
            f"`trainvitals contract write RUN --out {name}` makes one from a healthy run"
        ) from error
    try:
        return contract_of_toml(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"contract {name!r} is no TOML: {error}") from error
    except _Wrong as error:
        raise BadSetting(f"contract {name}:{_line_of(text, error.word)}: {error}") from error
    except BadSetting as error:
        raise BadSetting(f"contract {name!r}: {error}") from error


def contract_of_toml(data: Mapping[str, Any]) -> Contract:
    """The contract of a file's plain data. Raises BadSetting, or a ValueError that names the word that is wrong."""
    _check_keys(data, tuple(_FIELDS), "a contract")
    given = {key: _FIELDS[key](key, value) for key, value in data.items() if key != "thresholds"}
    thresholds, off = _thresholds(data.get("thresholds", {}))
    return Contract(**given, thresholds=thresholds, off=off)


def _patterns(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _Wrong(
            key, f'{key} = {value!r}: must be a list of FQN patterns, such as ["encoder.*"]'
        )
    return tuple(value)


def _pairs(key: str, value: Any) -> tuple[tuple[str, str], ...]:
    pairs: list[Any] = value if isinstance(value, list) else [None]
    if not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
        for pair in pairs
    ):
        raise _Wrong(
            key,
            f'{key} = {value!r}: must be pairs of FQNs, such as [["wte.weight", "head.weight"]]',
        )
    return tuple((first, second) for first, second in pairs)


def _dtypes(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise _Wrong(
            key,
            f'{key} = {value!r}: must be FQN patterns with dtypes, such as "*.bias" = "float32"',
        )
    return dict(value)


def _steps(key: str, value: Any) -> int:
    if not _is_count(value):
        raise _Wrong(key, f"{key} = {value!r}: must be a number of steps, 0 or more")
    return int(value)


def _lock(key: str, value: Any) -> Lock:
    if not isinstance(value, dict):
        raise _Wrong(
            key, f"{key} = {value!r}: must be a table, as `trainvitals contract write` makes it"
        )
    _check_keys(value, _LOCK_KEYS, "the lock")
    steps = {name: _steps(name, value.get(name, 0)) for name in _LOCK_KEYS[:3]}
    tensors: dict[str, LockedTensor] = {}
    kinds: tuple[tuple[Literal["param", "buffer"], str], ...] = (
        ("param", "params"),
        ("buffer", "buffers"),
    )
    for kind, section in kinds:
        rows = value.get(section, {})
        if not isinstance(rows, dict):
            raise _Wrong(section, f"[lock.{section}] must hold one line for each tensor")
        for name, row in rows.items():
            if name in tensors:
                raise _Wrong(name, f"{name!r} is a parameter and a buffer")
            tensors[name] = _tensor(kind, name, row)
    return Lock(tensors=tensors, **steps)


def _tensor(kind: Literal["param", "buffer"], name: str, row: Any) -> LockedTensor:
    if not isinstance(row, dict):
        raise _Wrong(name, f"{name!r}: must be {{ dtype = ..., shape = [...] }}")
    _check_keys(row, _TENSOR_KEYS, repr(name), word=name)
    shape, dtype = row.get("shape"), row.get("dtype")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise _Wrong(
            name, f'{name!r}: needs dtype = "float32" and shape = [rows, columns], or the like'
        )
    flags = {key: row[key] for key in _TENSOR_KEYS[2:] if key in row}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise _Wrong(name, f"{name!r}: {key} = {flag!r} must be true or false")
    return LockedTensor(kind=kind, dtype=dtype, shape=tuple(shape), **flags)


Thresholds = dict[str, dict[str, dict[str, float]]]
"""Detector -> FQN pattern ("*": all) -> threshold -> value."""


def _thresholds(given: Any) -> tuple[Thresholds, tuple[str, ...]]:
    """What is changed of detectors, and those that are switched off."""
    if not isinstance(given, dict):
        raise _Wrong(
            "thresholds", 'thresholds: must be tables such as [thresholds."norm-explosion"]'
        )
    changed: Thresholds = {}
    off = []
    for detector, table in given.items():
        if not isinstance(table, dict):
            raise _Wrong(
                detector, f"thresholds.{detector!r}: must be a table of thresholds, or off = true"
            )
        patterns: dict[str, dict[str, float]] = {}
        for key, value in table.items():
            if key == "off" and isinstance(value, bool):
                off += [detector] * value
            elif isinstance(value, dict):
                patterns[key] = {name: _number(detector, name, one) for name, one in value.items()}
            else:
                patterns.setdefault("*", {})[key] = _number(detector, key, value)
        if patterns:
            changed[detector] = patterns
    return changed, tuple(off)


def _number(detector: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        wanted = "true or false" if name == "off" else "a number"
        raise _Wrong(name, f"thresholds of {detector}: {name} = {value!r} must be {wanted}")
    return float(value)


_FIELDS: Mapping[str, Callable[[str, Any], Any]] = {
    "frozen": _patterns,
    "tied": _pairs,
    "dtypes": _dtypes,
    "ignore": _patterns,
    "total_steps": _steps,
    "thresholds": lambda _, value: value,
    "lock": _lock,
}


def _check_keys(
    given: Mapping[str, Any], allowed: tuple[str, ...], what: str, word: str = ""
) -> None:
    for key in given:
        if key not in allowed:
            raise _Wrong(
                word or key,
                f"{what} has no {key!r}{did_you_mean(key, allowed)}; it has: {', '.join(allowed)}",
            )


def did_you_mean(word: str, known: tuple[str, ...]) -> str:
    """A guess at what was meant, in words; "" if nothing is near."""
    near = get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _line_of(text: str, word: str) -> int:
    """The first line that has the word, comments aside; 1 if none has."""
    asked = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
    lines = enumerate(text.splitlines(), start=1)
    return next((n for n, line in lines if asked.search(line.partition("#")[0])), 1)
