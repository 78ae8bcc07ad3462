"""
Saves and loads of one attempt: the manifests that ranks reported, merged to one `Checkpoint` each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import MANIFEST
from trainvitals.frame import CheckpointSeen
from trainvitals_monitor.history.digests import sketch_of
from trainvitals_monitor.history.merge import Parts, Piece, merge

IntArray = npt.NDArray[np.int64]

MAX_KEPT = 32
"""Checkpoints that an attempt keeps: the last ones."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """
    One save or load, as `frame.CheckpointSeen` has it, with what its manifest says of each entry.

    `tensors`, `dtypes`, `shapes`, `live_keys` and the arrays in `rows` are as long as `keys`. `tensors[k]` is the index in the
    view's tensor table, -1 if the entry belongs to none. `rows`: digest, count, square_sum, sketch_0..7, live_digest,
    live_square_sum, stale_step; `count` 0 means that nothing was measured of this entry ("no data"). `ranks`: who
    reported it.
    """

    op: str
    api: str
    step: int
    path: str
    keys: list[str]
    tensors: npt.NDArray[np.int64]
    dtypes: list[str]
    shapes: list[list[int]]
    live_keys: list[str]
    missing: list[str]
    unexpected: list[str]
    failed: bool
    foreign: bool
    is_model: bool
    rows: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    ranks: tuple[int, ...] = (0,)
    has_optimizer: bool = False
    unregistered: tuple[str, ...] = ()

    def sketch(self, entries: npt.NDArray[Any] | slice = slice(None)) -> npt.NDArray[np.float64]:
        """The sketches of these entries, [k, 8]; their mean squared difference estimates a squared distance."""
        return sketch_of(self.rows, entries)


@dataclass(frozen=True)
class Reported:
    """One rank's report of a save or load: the event (with the rank's own tensor indices) and its manifest rows."""

    rank: int
    seen: CheckpointSeen
    tensors: IntArray
    rows: list[Mapping[str, npt.NDArray[Any]]]


class Checkpoints:
    """
    The saves and loads of an attempt: reports wait here until they are presented to detectors, ranks merged.

    Reports of several ranks are one checkpoint when operation, function, path and step agree, and both are each rank's
    k-th of that kind. `counts`: those of a model's state, by operation.
    """

    def __init__(self) -> None:
        self.presented: list[Checkpoint] = []
        self.counts: dict[str, int] = {"save": 0, "load": 0}
        self._waiting: list[Reported] = []

    def report(self, reported: Reported) -> None:
        """A rank's report, to be presented at a look."""
        self._waiting.append(reported)

    @property
    def has_reports(self) -> bool:
        """Whether there is any to be presented."""
        return bool(self._waiting)

    def present(self, parts: Parts | None) -> list[Checkpoint]:
        """The checkpoints that were reported and not presented, oldest first; from now on they have been."""
        due, self._waiting = self._waiting, []
        together: dict[tuple[Any, ...], list[Reported]] = {}
        ordinals: Counter[tuple[Any, ...]] = Counter()
        for one in sorted(due, key=lambda one: (one.seen.step, one.rank, one.seen.number)):
            same = (one.seen.step, one.seen.op, one.seen.api, one.seen.path, one.seen.is_model)
            own = (one.rank, *same)
            ordinal = ordinals[own]
            ordinals[own] += 1
            together.setdefault((*same, ordinal), []).append(one)
        made = [merge_reports(reports, parts) for reports in together.values()]
        for checkpoint in made:
            # An optimizer's state beside it, in a file of its own, is no second checkpoint.
            self.counts[checkpoint.op] += checkpoint.is_model
        self.presented = [*self.presented, *made][-MAX_KEPT:]
        return made

    @property
    def last_save(self) -> Checkpoint | None:
        """The last save of a model's state that did not fail."""
        good = (
            one
            for one in reversed(self.presented)
            if one.op == "save" and one.is_model and not one.failed
        )
        return next(good, None)


def merge_reports(reports: Sequence[Reported], parts: Parts | None) -> Checkpoint:
    """The ranks' reports, ordered by rank, as one checkpoint; what one rank alone reports is taken as it is."""
    entries = _Entries(reports)
    first = reports[0].seen
    return Checkpoint(
        op=first.op,
        api=first.api,
        step=first.step,
        path=first.path,
        keys=entries.keys,
        tensors=np.array(entries.tensors, np.int64),
        dtypes=entries.dtypes,
        shapes=entries.shapes,
        live_keys=entries.live_keys,
        missing=_union(one.seen.missing for one in reports),
        unexpected=_union(one.seen.unexpected for one in reports),
        failed=any(one.seen.failed for one in reports),
        foreign=all(one.seen.foreign for one in reports),
        is_model=first.is_model,
        rows=_rows(reports, entries, parts),
        ranks=tuple(one.rank for one in reports),
        has_optimizer=any(one.seen.has_optimizer for one in reports),
        unregistered=tuple(sorted({name for one in reports for name in one.seen.unregistered})),
    )


class _Entries:
    """The union of the ranks' keys, and where each rank's entries are in it."""

    def __init__(self, reports: Sequence[Reported]) -> None:
        self.keys: list[str] = []
        self.tensors: list[int] = []
        self.dtypes: list[str] = []
        self.shapes: list[list[int]] = []
        self.live_keys: list[str] = []
        self.place: list[IntArray] = []
        index: dict[str, int] = {}
        for report in reports:
            seen = report.seen
            live_keys = [*seen.live_keys, *[""] * len(seen.keys)][: len(seen.keys)]
            for key, tensor, dtype, shape, live_key in zip(
                seen.keys, report.tensors, seen.dtypes, seen.shapes, live_keys, strict=True
            ):
                if key not in index:
                    index[key] = len(self.keys)
                    self.keys.append(key)
                    self.tensors.append(int(tensor))
                    self.dtypes.append(dtype)
                    self.shapes.append(shape)
                    self.live_keys.append(live_key)
            self.place.append(np.array([index[key] for key in seen.keys], np.int64))


def _rows(
    reports: Sequence[Reported], entries: _Entries, parts: Parts | None
) -> dict[str, npt.NDArray[Any]]:
    num_entries = len(entries.keys)
    columns = {
        column.name: np.zeros(num_entries, np.dtype(column.dtype)) for column in MANIFEST.columns
    }
    columns["stale_step"][:] = -1
    if len(reports) == 1 or parts is None:
        for report, place in zip(reports, entries.place, strict=True):
            for rows in report.rows:
                inside = rows["entry"] < len(place)
                for name in columns.keys() & rows.keys():
                    columns[name][place[rows["entry"][inside]]] = rows[name][inside]
        return columns
    whole, merged = _merged(reports, entries, parts)
    for name, values in merged.items():
        columns[name][whole] = values
    return columns


def _merged(
    reports: Sequence[Reported], entries: _Entries, parts: Parts
) -> tuple[IntArray, dict[str, npt.NDArray[Any]]]:
    """Entry by entry as tensors are merged. Two entries may hold one tensor: parts are told apart by entry."""
    tensors = np.array(entries.tensors, np.int64)
    own = tensors >= 0
    needed = np.ones(len(tensors), np.int64)
    needed[own] = parts.needed[tensors[own]]
    first_part = np.concatenate([[0], np.cumsum(needed)[:-1]]).astype(np.int64)
    pieces: list[Piece] = []
    for report, place in zip(reports, entries.place, strict=True):
        part_within = np.zeros(len(tensors), np.int64)
        part_within[own] = parts.within(report.rank)[tensors[own]]
        part = np.where(part_within >= 0, first_part + part_within, -1)
        for rows in report.rows:
            inside = rows["entry"] < len(place)
            entry = place[rows["entry"][inside]]
            given = {name: values[inside] for name, values in rows.items()}
            pieces.append((entry, part[entry], given))
    return merge(MANIFEST.columns, pieces, needed, int(needed.sum()))


def _union(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
