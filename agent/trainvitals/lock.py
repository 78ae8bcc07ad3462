"""
What a lock says: every tensor of a model's training state, as it was in a run that was well.

Layers that agree are folded into one name, in which `{0-31}` and `{0,2-4}` stand for numbers, so that a lock of ten
thousand tensors can be reviewed: "layers.{0-31}.wq.weight". Plain data, without torch; contract_file.py reads it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trainvitals.errors import BadSetting

MAX_LOCKED = 100_000
"""Tensors of one lock, as many as a monitor takes of one attempt."""

_RANGES = re.compile(r"\{(\d{1,9}(?:-\d{1,9})?(?:,\d{1,9}(?:-\d{1,9})?)*)\}")
_NUMBER = re.compile(r"0|[1-9]\d{0,8}")


@dataclass(frozen=True, kw_only=True)
class LockedTensor:
    """
    One tensor as it was when it was first seen. `moves`: whether any element changed in the run; None: not known.

    `late`: it came after the first step. `shape` is the global shape.
    """

    kind: Literal["param", "buffer"]
    dtype: str
    shape: tuple[int, ...]
    trainable: bool = False
    persistent: bool = True
    moves: bool | None = None
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class Lock:
    """
    `tensors`: by folded name. `first_step`, `last_step`: the steps of the run that it was made from, as the trainer
    counts. `moved_within`: steps by which everything that moves had moved.
    """

    tensors: Mapping[str, LockedTensor] = field(default_factory=dict)
    first_step: int = 0
    last_step: int = 0
    moved_within: int = 0

    def __post_init__(self) -> None:
        number = sum(count(name) for name in self.tensors)
        if number > MAX_LOCKED:
            raise BadSetting(f"lock: {number} tensors are named; at most {MAX_LOCKED} can be")


def count(name: str) -> int:
    """How many tensors a folded name stands for."""
    return math.prod(sum(high - low + 1 for low, high in part) for _, part in _parts(name) if part)


def expand(name: str) -> Iterator[str]:
    """
    The tensors that a folded name stands for.

    >>> list(expand("layers.{0-1,3}.w"))
    ['layers.0.w', 'layers.1.w', 'layers.3.w']
    """
    choices = [
        [str(number) for low, high in ranges for number in range(low, high + 1)]
        if ranges
        else [text]
        for text, ranges in _parts(name)
    ]
    return (".".join(chosen) for chosen in itertools.product(*choices))


def fold(tensors: Mapping[str, LockedTensor]) -> dict[str, LockedTensor]:
    """The tensors by folded name, in the order of their names; numbers count as numbers."""
    alike: dict[tuple[str, LockedTensor], list[tuple[int, ...]]] = {}
    for fqn, tensor in tensors.items():
        parts = fqn.split(".")
        numbers = tuple(int(part) for part in parts if _NUMBER.fullmatch(part))
        pattern = ".".join("*" if _NUMBER.fullmatch(part) else part for part in parts)
        alike.setdefault((pattern, tensor), []).append(numbers)
    folded = {
        _named(pattern, box): tensor
        for (pattern, tensor), numbers in alike.items()
        for box in _boxes(numbers)
    }
    return dict(sorted(folded.items(), key=lambda one: _natural(one[0])))


def fold_names(names: Iterable[str]) -> list[str]:
    """Only the folded names."""
    same = LockedTensor(kind="param", dtype="", shape=())
    return list(fold(dict.fromkeys(names, same)))


_Box = tuple[frozenset[int], ...]


def _boxes(numbers: Sequence[tuple[int, ...]]) -> list[_Box]:
    """A few products of sets that together are these tuples, each once."""
    boxes: list[_Box] = [tuple(frozenset([number]) for number in each) for each in numbers]
    for dim in reversed(range(len(boxes[0]))):
        joined: dict[tuple[_Box, _Box], frozenset[int]] = {}
        for box in boxes:
            rest = (box[:dim], box[dim + 1 :])
            joined[rest] = joined.get(rest, frozenset()) | box[dim]
        boxes = [(*before, here, *after) for (before, after), here in joined.items()]
    return boxes


def _named(pattern: str, box: _Box) -> str:
    texts = iter([_ranged(sorted(numbers)) for numbers in box])
    return ".".join(next(texts) if part == "*" else part for part in pattern.split("."))


def _ranged(numbers: Sequence[int]) -> str:
    """
    Numbers as a name has them.

    >>> _ranged([0, 1, 2, 5]), _ranged([7])
    ('{0-2,5}', '7')
    """
    if len(numbers) == 1:
        return str(numbers[0])
    parts = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        parts.append(str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}")
    return "{" + ",".join(parts) + "}"


def _parts(name: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """The name's parts, each with the ranges of numbers that it stands for (none: itself)."""
    return [(part, _ranges(part)) for part in name.split(".")]


def _ranges(part: str) -> list[tuple[int, int]]:
    found = _RANGES.fullmatch(part)
    if found is None:
        return []
    ranges = []
    for text in found[1].split(","):
        low, _, high = text.partition("-")
        ranges.append((int(low), int(high or low)))
    return [(low, max(low, high)) for low, high in ranges]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts 2 before 10, and a folded number by its first."""
    return tuple(
        (0, int(found[0]), part)
        if (found := re.match(r"\d{1,9}", part.lstrip("{")))
        else (1, 0, part)
        for part in name.split(".")
    )
