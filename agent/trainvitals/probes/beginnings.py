"""
What parameters hold before the first step; and which of them began with all rows alike and still have them so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import batches, flatten
from trainvitals.dtypes import READINGS, as_real, reading
from trainvitals.probes.probe import Look, Probe, Sample, samples, split
from trainvitals.slots import SlotTable

ROWS_COMPARED = 8
COLUMNS_COMPARED = 64
MAX_ALIKE = 1024
SETTLED_STEPS = 8
"""Rows that began alike part at the first updates; what is alike after so many is told, and again as steps double."""
_SMALLEST_NORMAL = float(torch.finfo(torch.float32).tiny)

_WHOLE = ("full", "replica")

Floats = npt.NDArray[np.float64]


class Beginnings(Probe):
    """
    Reads every parameter's cores once, before the first step, and eight rows of each that has two dims or more.

    Those whose rows are alike (zeros among them) are looked at again while they stay so: 10 us a tensor, at eight steps
    and then at powers of two; as a rule none is left after the first. Rows of sharded tensors are not read.
    """

    name = "beginnings"

    def __init__(self) -> None:
        self._started = False
        self._rounds = 0
        self._alike: list[int] = []

    def before_step(self, look: Look) -> None:
        """The state that training starts from, once."""
        if not look.first or self._started:
            return
        self._started = True
        parameters = [
            index for index, slot in enumerate(look.slots.slots) if slot.place.kind == "param"
        ]
        for sample in samples(look.slots, parameters):
            _report(look, sample)
        trainable = [
            index
            for index in parameters
            if (tensor := look.slots.tensor(index)) is not None and tensor.requires_grad
        ]
        for part in split(look.slots, trainable):
            self._alike += _alike(look.slots, part)[0]
        del self._alike[MAX_ALIKE:]

    def after_step(self, look: Look) -> None:
        """Which of those that began with rows alike have them so still."""
        self._rounds += 1
        if not self._alike or (self._rounds > SETTLED_STEPS and self._rounds & (self._rounds - 1)):
            return
        self._alike, rows = _alike(look.slots, self._alike)
        if self._rounds >= SETTLED_STEPS:
            look.add("rows", self._alike, rows_alike=rows)


def _alike(slots: SlotTable, indices: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those whose rows, as far as they are compared, are equal bit for bit; and how many were compared."""
    found: list[int] = []
    rows: list[torch.Tensor] = []
    for index in indices:
        picked = _rows(slots, index)
        if picked is not None:
            found.append(index)
            rows.append(picked)
    same = np.zeros(len(rows), np.bool_)
    for batch in batches(rows, range(len(rows))):
        flat = flatten([rows[row] for row in batch])
        bits = as_real(flat).view(READINGS[flat.dtype].bits).cpu().numpy()
        begin = 0
        for row in batch:
            end = begin + rows[row].numel()
            own = bits[begin:end].reshape(rows[row].shape[0], -1)
            same[row] = bool((own == own[0]).all())
            begin = end
    kept = np.flatnonzero(same).tolist()
    return [found[row] for row in kept], [rows[row].shape[0] for row in kept]


def _rows(slots: SlotTable, index: int) -> torch.Tensor | None:
    """A copy of the begins of some rows, spread over dim 0; None where rows are not to be had."""
    part = slots.local(index)
    if part is None or part.dim() < 2 or part.shape[0] < 2 or part[0].numel() < 1:
        return None
    how = reading(part)
    if (
        how is None
        or not how.is_float
        or part.is_complex()
        or slots.layout(index).kind not in _WHOLE
    ):
        return None
    count = min(ROWS_COMPARED, part.shape[0])
    # By slices: an index tensor would have to be copied to the device.
    chosen = [(k * (part.shape[0] - 1)) // (count - 1) for k in range(count)]
    return torch.stack([part[row].detach().reshape(-1)[:COLUMNS_COMPARED] for row in chosen])


def _report(look: Look, sample: Sample) -> None:
    floats = [
        row
        for row, values in enumerate(sample.values)
        if values.is_floating_point() and values.numel() and reading(values) is not None
    ]
    cuts = [sample.values[row] for row in floats]
    found = np.zeros((5, len(cuts)))
    for batch in batches(cuts, range(len(cuts))):
        flat = flatten([cuts[row] for row in batch])
        values = flat.to(READINGS[flat.dtype].compute).cpu().numpy().astype(np.float64)
        begin = 0
        for row in batch:
            end = begin + cuts[row].numel()
            found[:, row] = _measures(values[begin:end])
            begin = end
    indices = [sample.indices[row] for row in floats]
    if indices:
        read, zeros, denormals, squares, largest = found
        look.record.add(
            "beginning",
            tensor=indices,
            step=[look.step - 1] * len(indices),
            read=read.astype(np.int64),
            zeros=zeros.astype(np.int64),
            denormals=denormals.astype(np.int64),
            squares=squares,
            largest=largest,
        )


def _measures(values: Floats) -> tuple[float, ...]:
    size = np.abs(values[np.isfinite(values)])
    zeros = int((size == 0).sum())
    denormals = int((size < _SMALLEST_NORMAL).sum()) - zeros
    with np.errstate(over="ignore"):
        squares = float(size @ size)
    return len(values), zeros, denormals, squares, float(size.max(initial=0.0))
