"""
Where probes put what they measured, until the sender makes a frame of it.

Adding is the hot path: one append to a deque, no copying, no lock (CPython's deque is safe for one side appending and
the other popping). What does not fit is dropped, oldest first, and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import TABLE_BY_NAME
from trainvitals.frame import Event, TensorInfo

Rows = tuple[str, dict[str, npt.NDArray[Any]]]

_EVENT_BYTES = 512
MAX_SCALARS = 1 << 16
_SCALAR_BYTES = 20
MAX_NAMES, MAX_NAME_LENGTH = 256, 200
"""Every frame names all scalars, and a monitor refuses one with more or longer names: those lose their numbers alone."""


class Record:
    """
    Facts, events and tensor rows that wait to be sent. One per agent; probes write, the sender's thread takes.

    `limit_bytes` bounds the waiting columns, and MAX_SCALARS the trainer's numbers. Events and tensor rows are few and
    are not dropped.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rows: deque[Rows] = deque()
        self._events: deque[Event] = deque()
        self._tensors: deque[TensorInfo] = deque()
        self._scalars: dict[str, int] = {}
        self._numbers: deque[tuple[int, int, float]] = deque(maxlen=MAX_SCALARS)
        # One counter for each side: `x -= y` on a shared one loses updates when threads switch in between.
        self._added_bytes = 0
        self._taken_bytes = 0
        self.dropped_rows = 0

    def add(self, table: str, **columns: Any) -> None:
        """Rows of one table; each column a sequence or array of the same length, cast to the table's dtypes."""
        arrays = _columns(table, columns)
        size = _size(arrays)
        self._rows.append((table, arrays))
        self._added_bytes += size
        while self._waiting_columns_bytes > self._limit_bytes and len(self._rows) > 1:
            self._drop_oldest()

    def event(self, event: Event) -> None:
        """Something that happened, for the header's `events`."""
        self._events.append(event)

    def tensor(self, info: TensorInfo) -> None:
        """A row of the tensor table, new or changed."""
        self._tensors.append(info)

    def scalar(self, name: str, step: int, value: float) -> None:
        """A number that the trainer logged. Many trainers do at every step: columns are made of them by who takes."""
        index = self._scalars.get(name)
        if index is None:
            if len(self._scalars) >= MAX_NAMES or len(name) > MAX_NAME_LENGTH:
                self.dropped_rows += 1
                return
            index = self._scalars[name] = len(self._scalars)
        self.dropped_rows += len(self._numbers) == MAX_SCALARS
        self._numbers.append((index, step, value))

    @property
    def waiting_bytes(self) -> int:
        """Memory that waits, about."""
        others = _EVENT_BYTES * (len(self._events) + len(self._tensors))
        return self._waiting_columns_bytes + others + _SCALAR_BYTES * len(self._numbers)

    @property
    def _waiting_columns_bytes(self) -> int:
        return self._added_bytes - self._taken_bytes

    @property
    def scalar_names(self) -> list[str]:
        """Names of the scalars, in the order of their indices."""
        return list(self._scalars)

    def take(self) -> tuple[dict[str, dict[str, npt.NDArray[Any]]], list[Event], list[TensorInfo]]:
        """Everything that waits, columns joined per table. Called by the sender's thread only."""
        parts: dict[str, list[Mapping[str, npt.NDArray[Any]]]] = {}
        for _ in range(len(self._rows)):
            try:
                table, columns = self._rows.popleft()
            except IndexError:  # the hot path dropped the oldest meanwhile
                break
            size = _size(columns)
            self._taken_bytes += size
            parts.setdefault(table, []).append(columns)
        joined = {
            table: {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
            for table, rows in parts.items()
        }
        numbers = [self._numbers.popleft() for _ in range(len(self._numbers))]
        if numbers:
            names = ("scalar", "step", "value")
            joined["scalars"] = _columns(
                "scalars", dict(zip(names, zip(*numbers, strict=True), strict=True))
            )
        events = [self._events.popleft() for _ in range(len(self._events))]
        tensors = [self._tensors.popleft() for _ in range(len(self._tensors))]
        return joined, events, tensors

    def _drop_oldest(self) -> None:
        try:
            _, columns = self._rows.popleft()
        except IndexError:
            return
        size, length = _size(columns), len(next(iter(columns.values())))
        self._added_bytes -= size
        self.dropped_rows += length


def _columns(table: str, columns: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    known = TABLE_BY_NAME[table]
    return {
        name: np.asarray(values, dtype=known.dtype_of(name)) for name, values in columns.items()
    }


def _size(columns: Mapping[str, npt.NDArray[Any]]) -> int:
    return sum(array.nbytes for array in columns.values())
