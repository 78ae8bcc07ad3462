"""
Whether a DataLoader is begun anew for every step, and gives the same batches each time; and whether its workers do.

Touches the `__next__` of torch's DataLoader iterators while any agent looks: whatever calls it calls ours, which calls
it. Batches, their order and all random numbers stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind

from trainvitals.batch_digest import digest_of
from trainvitals.doubled import ELEMENTS, Doubled
from trainvitals.patches import SharedPatch
from trainvitals.probes.probe import Look, Probe, Rested
from trainvitals.record import Record

UNKNOWN = 0

_Row = tuple[int, int, int, int]
"""Of the table: step, repeats, drawn, batches."""


class Draws(Probe):
    """
    Counts the steps in a row that were given the same batches, by iterations that were begun for the step and left
    before their end. Batches drawn under `no_grad` are an evaluation's. Says nothing of other steps.

    A batch costs about 4 us; the first ones of an iteration, until the next step, 5 to 30 us more. Only what is in the host's
    memory is read.
    """

    name = "draws"

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._begun: set[int] = set()
        self._drawn = self._digest = self._last = 0
        self._left = self._batches = 0
        self._is_anew = True
        self._repeats = 0
        self._has_drawn = False
        self._rested: list[_Row] = []
        self._doubled = Doubled()

    def before_step(self, look: Look) -> None:
        """Begin to listen."""
        if look.first:
            _PATCH.hold(self)

    def after_step(self, look: Look) -> None:
        """A row for the batches since the step before, if they are those of the step before it."""
        _tell(look.record, self._rows(look.step))
        compared = self._doubled.take()
        if compared is not None:
            columns = {name: [value] for name, value in compared._asdict().items()}
            look.record.add("worker_rounds", step=[look.step], **columns)

    def rest(self, step: int) -> None:
        """The same, for later: a rest would make one step of many."""
        self._rested += self._rows(step)

    def is_idle(self) -> bool:
        """Nothing was ever drawn."""
        return not self._has_drawn

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: ARG002
        """The rows of rests."""
        rows, self._rested = self._rested, []
        _tell(record, rows)

    def _rows(self, step: int) -> list[_Row]:
        """The row of a step, if it has one; batches are counted anew from here on."""
        if not self._drawn:
            return []
        found = self._digest if self._is_anew and self._left > 0 else 0
        self._repeats = self._repeats + 1 if found and found == self._last else 0
        row = (step, self._repeats, self._drawn, self._batches)
        self._last, self._drawn, self._digest, self._is_anew = found, 0, 0, True
        self._begun.clear()
        return [row] if self._repeats else []

    def close(self) -> None:
        """Stop to listen; the last agent gives the function back."""
        _PATCH.release(self)

    def touched(self) -> list[str]:
        """What is replaced now."""
        return _PATCH.touched(self)

    def drew(self, iterator: _BaseDataLoaderIter, batch: Any) -> None:
        """A batch was drawn; on the thread that draws."""
        if os.getpid() == self._pid and torch.is_grad_enabled():
            self.guarded(self.name, self._note, iterator, batch)

    def _note(self, iterator: _BaseDataLoaderIter, batch: Any) -> None:
        self._drawn += 1
        self._has_drawn = True
        self._doubled.note(iterator, batch)
        if not self._is_anew:
            return
        if iterator._num_yielded == 1:
            self._begun.add(id(iterator))
        batches = _batches(iterator)
        found = digest_of(batch, ELEMENTS) if id(iterator) in self._begun and batches else 0
        if not found:
            self._is_anew = False  # an iteration that goes on, or nothing that could be read
            return
        left, first = batches - iterator._num_yielded, self._drawn == 1
        self._left = left if first else min(left, self._left)
        self._batches = batches if first else min(batches, self._batches)
        self._digest = (self._digest * 0x9E3779B97F4A7C15 + found) & 0xFFFFFFFFFFFFFFFF


def _tell(record: Record, rows: list[_Row]) -> None:
    if rows:
        step, repeats, drawn, batches = zip(*rows, strict=True)
        record.add("draws", step=step, repeats=repeats, drawn=drawn, batches=batches)


def _batches(iterator: _BaseDataLoaderIter) -> int:
    """How many batches a pass has; a data set that is iterated over is not asked, for DataLoader would note it."""
    if iterator._dataset_kind != _DatasetKind.Map:
        return UNKNOWN
    try:
        return len(iterator._index_sampler)
    except (TypeError, NotImplementedError):
        return UNKNOWN


def _draw(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    batch = original(*args, **kwargs)
    for listener in _PATCH.listeners:
        listener.drew(args[0], batch)
    return batch


_LABEL = "torch.utils.data.dataloader._BaseDataLoaderIter.__next__"
_PATCH: SharedPatch[Draws] = SharedPatch(_BaseDataLoaderIter, "__next__", _LABEL, _draw)
