"""
The recent window of an attempt: every statistic of every tensor over the last steps, in memory.

Arrays are step-major, [step, tensor]: a step is written as one contiguous row, and a window is a slice, not a copy.
Rows move forward through an array half as long again as the window (less where memory ends); at its end the window is
copied to the front, which costs two rows a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SERIES, SERIES_TABLE, Table

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

WINDOW_STEPS = 256
MIN_WINDOW_STEPS = 8
WINDOW_BYTES = 480 << 20
"""What the window of one attempt may take, at most; it is not shortened below MIN_WINDOW_STEPS, and one row in reserve."""

_STEP_BYTES_PER_TENSOR = 8 * len(SERIES) + len({table.name for table in SERIES_TABLE.values()})


class Window:
    """Values and looks of the last steps. Statistics that never came take no memory."""

    def __init__(self) -> None:
        self._num_tensors = 0
        self._set_nothing()
        self._set_length()
        self._steps = np.full(self._capacity, -1, np.int64)
        self._start = self._end = 0
        self._values: dict[str, FloatArray] = {}
        self._seen: dict[str, BoolArray] = {}
        self._present: dict[str, BoolArray] = {}
        self._latest: dict[str, FloatArray] = {}
        self._last_seen: dict[str, IntArray] = {}
        # What most steps make unnecessary is put off: a row is written once, not four times. `_unset`: statistics
        # whose newest row is still to become NaN; `_whole`: the row in which every tensor was looked at last.
        self._unset: set[str] = set()
        self._whole: dict[str, int] = {}
        self._borrowers: list[weakref.ref[object]] = []

    @property
    def length(self) -> int:
        """Steps that are kept."""
        return self._length

    @property
    def num_bytes(self) -> int:
        """What the rows take; the last looks at each tensor are little beside them."""
        return self._capacity * self._num_tensors * (8 * len(self._values) + len(self._seen))

    @property
    def num_rows(self) -> int:
        """Rows that the array of a statistic has."""
        return self._capacity

    @property
    def stats(self) -> list[str]:
        """Statistics that came at least once."""
        return list(self._values)

    def _set_nothing(self) -> None:
        """Rows of no data. Most statistics never come in a training, and detectors ask for all of them at every step."""
        self._no_value = _read_only(np.full(self._num_tensors, np.nan))
        self._no_step = _read_only(np.full(self._num_tensors, -1, np.int64))
        self._no_look = _read_only(np.zeros(self._num_tensors, np.bool_))

    def _set_length(self) -> None:
        row_bytes = max(1, self._num_tensors) * _STEP_BYTES_PER_TENSOR
        fitting = WINDOW_BYTES * 2 // 3 // row_bytes
        self._length = max(MIN_WINDOW_STEPS, min(WINDOW_STEPS, fitting))
        # The less room there is, the more often the window is copied to the front.
        reserve = min(self._length // 2, WINDOW_BYTES // row_bytes - self._length)
        self._capacity = self._length + max(1, reserve)

    # -- writing ---------------------------------------------------------------------------------------------------

    def resize(self, num_tensors: int) -> None:
        """Room for so many tensors; keeps what is there, as far back as the memory allows."""
        more = num_tensors - self._num_tensors
        if more <= 0:
            return
        self._settle()
        self._num_tensors = num_tensors
        self._set_nothing()
        self._set_length()
        kept = slice(max(self._start, self._end - self._length), self._end)
        self._steps = self._moved(self._steps, kept, 0, -1)
        self._values = {k: self._moved(v, kept, more, np.nan) for k, v in self._values.items()}
        self._seen = {k: self._moved(v, kept, more, False) for k, v in self._seen.items()}
        self._present = {k: self._moved(v, kept, 0, False) for k, v in self._present.items()}
        for stat, latest in self._latest.items():
            self._latest[stat] = np.pad(latest, (0, more), constant_values=np.nan)
            self._last_seen[stat] = np.pad(self._last_seen[stat], (0, more), constant_values=-1)
        self._start, self._end = 0, kept.stop - kept.start

    def _moved(
        self, array: npt.NDArray[Any], kept: slice, more: int, fill: Any
    ) -> npt.NDArray[Any]:
        rows = array[kept]
        wider = [(0, self._capacity - len(rows)), (0, more)][: array.ndim]
        return np.pad(rows, wider, constant_values=fill)

    def begin(self, step: int) -> None:
        """A new row, nothing seen yet; the step must be later than all before."""
        for stat in list(self._unset):
            self._set_row(stat)
        if self._end == self._capacity:
            self._settle()
            self._to_front()
        self._unset = set(self._values)
        row = self._end
        self._end += 1
        self._start = max(self._start, self._end - self._length)
        self._steps[row] = step
        for flags in (*self._seen.values(), *self._present.values()):
            flags[row] = False

    def _settle(self) -> None:
        """Do all that was put off, because rows are about to move."""
        for stat in list(self._unset):
            self._set_row(stat)
        for stat in list(self._whole):
            self._set_latest(stat)

    def _set_row(self, stat: str) -> None:
        if stat in self._unset:
            self._unset.discard(stat)
            self._values[stat][self._end - 1] = np.nan

    def _set_latest(self, stat: str) -> None:
        row = self._whole.pop(stat, None)
        if row is not None:
            self._latest[stat][:] = self._values[stat][row]
            self._last_seen[stat][:] = self._steps[row]

    def lend(self, borrower: object) -> None:
        """
        What `between` gave for older rows than the newest will not change while the borrower lives.

        Saves a copy of 128 rows of every statistic, 0.1 ms a step for 2,000 tensors: mostly it is gone in time.
        """
        self._borrowers.append(weakref.ref(borrower))

    def _to_front(self) -> None:
        if any(borrower() is not None for borrower in self._borrowers):
            self._values = {stat: values.copy() for stat, values in self._values.items()}
            self._seen = {table: seen.copy() for table, seen in self._seen.items()}
        self._borrowers = []
        kept = slice(self._end - self._length + 1, self._end)
        self._start, self._end = 0, kept.stop - kept.start
        everything = (self._steps, *self._values.values(), *self._seen.values())
        for array in (*everything, *self._present.values()):
            # Block by block, so that none overlaps where it goes and numpy needs no copy in between.
            for row in range(0, self._end, kept.start):
                block = array[kept.start + row : min(2 * kept.start + row, kept.stop)]
                array[row : row + len(block)] = block

    def write(
        self, table: Table, index: IntArray | slice, columns: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """
        Rows of one table for the step begun last; `index` are tensors, or slice(None) for all in order.

        Cost: one write a column, 25 us for eight columns of 2,000 tensors when `index` is a slice.
        """
        row = self._end - 1
        whole = isinstance(index, slice)
        self._for_table(table.name)[row, index] = True
        for column in table.columns:
            given = columns.get(column.name)
            if given is None:
                continue
            values = self._for_stat(column.name)
            self._present[column.name][row] = True
            if whole:
                self._unset.discard(column.name)
                values[row] = given
                self._whole[column.name] = row
                continue
            self._set_row(column.name)
            self._set_latest(column.name)
            values[row, index] = given
            self._latest[column.name][index] = given
            self._last_seen[column.name][index] = self._steps[row]

    def remember(self, stat: str, index: IntArray, values: FloatArray, steps: IntArray) -> None:
        """The last looks at these tensors that rest in no row any more, and their steps; later ones stay."""
        self._for_table(SERIES_TABLE[stat].name)
        self._for_stat(stat)
        self._set_latest(stat)
        later = steps > self._last_seen[stat][index]
        self._latest[stat][index[later]] = values[later]
        self._last_seen[stat][index[later]] = steps[later]

    def _for_table(self, name: str) -> BoolArray:
        if name not in self._seen:
            self._seen[name] = np.zeros((self._capacity, self._num_tensors), np.bool_)
        return self._seen[name]

    def _for_stat(self, stat: str) -> FloatArray:
        if stat not in self._values:
            self._values[stat] = np.full((self._capacity, self._num_tensors), np.nan)
            self._present[stat] = np.zeros(self._capacity, np.bool_)
            self._latest[stat] = np.full(self._num_tensors, np.nan)
            self._last_seen[stat] = np.full(self._num_tensors, -1, np.int64)
        return self._values[stat]

    # -- reading ---------------------------------------------------------------------------------------------------

    def now(self, stat: str, step: int) -> FloatArray:
        """The row of this step if it is the latest one, else no data."""
        if stat in self._values and self._is_latest(step):
            self._set_row(stat)
            return _read_only(self._values[stat][self._end - 1])
        return self._no_value

    def seen_now(self, stat: str, step: int) -> BoolArray:
        """Who was looked at in this step if it is the latest one."""
        if stat in self._values and self._is_latest(step) and self._present[stat][self._end - 1]:
            return _read_only(self._seen[SERIES_TABLE[stat].name][self._end - 1])
        return self._no_look

    def last(self, stat: str, length: int) -> tuple[FloatArray, BoolArray]:
        """Values and looks of the last steps, [k, n]."""
        return self.between(stat, self._end - min(length, self._end - self._start), self._end)

    def last_steps(self, length: int) -> IntArray:
        """The steps of the last rows, [k]."""
        return _read_only(self._steps[max(self._start, self._end - length) : self._end])

    def between(self, stat: str, start: int, end: int) -> tuple[FloatArray, BoolArray]:
        """Values and looks of these rows (see `rows`)."""
        if stat not in self._values:
            shape = (end - start, self._num_tensors)
            return np.broadcast_to(self._no_value, shape), np.broadcast_to(self._no_look, shape)
        self._set_row(stat)
        seen = self._seen[SERIES_TABLE[stat].name][start:end]
        present = self._present[stat][start:end]
        if not present.all():
            seen = seen & present[:, None]
        return _read_only(self._values[stat][start:end]), _read_only(seen)

    def rows(self, first_step: int, end_step: int) -> tuple[int, int]:
        """The rows of the steps from `first_step` up to, not including, `end_step`, as far as they are kept."""
        steps = self._steps[self._start : self._end]
        start, end = np.searchsorted(steps, (first_step, end_step))
        return self._start + int(start), self._start + int(end)

    def steps_of(self, start: int, end: int) -> IntArray:
        """The steps of these rows."""
        return _read_only(self._steps[start:end])

    def latest(self, stat: str) -> FloatArray:
        """The value at each tensor's last look."""
        if stat not in self._latest:
            return self._no_value
        self._set_latest(stat)
        return _read_only(self._latest[stat][:])

    def last_seen(self, stat: str) -> IntArray:
        """The step of each tensor's last look, -1 for never."""
        if stat not in self._last_seen:
            return self._no_step
        self._set_latest(stat)
        return _read_only(self._last_seen[stat][:])

    def series(self, stat: str, tensor: int) -> tuple[IntArray, FloatArray]:
        """Steps at which the tensor was looked at, and the values there, as far back as the window goes."""
        values, seen = self.between(stat, self._start, self._end)
        looked = seen[:, tensor]
        steps = self._steps[self._start : self._end]
        return steps[looked], values[:, tensor][looked]

    def _is_latest(self, step: int) -> bool:
        return self._end > self._start and bool(self._steps[self._end - 1] == step)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view: npt.NDArray[Any] = array.view()
    view.setflags(write=False)
    return view
