"""
Sums of squares on the host: of short rows by BLAS, added up in float64.

A kernel adds thousands of squares one by one in float32, which is off by 1e-4 where elements are alike (fresh norms,
bf16 grids), and by 4e-3 at 38M elements. In short rows it is not, and no slower. BLAS libraries use threads of their own
for long vectors (OpenBLAS beyond 10,000 elements): never for these. A tensor's sum is the same in any company.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import MIXED, starts_of
from trainvitals.dtypes import READINGS, as_real

_ROW = 1024
_WIDENED = 1 << 20
"""
Elements that are widened at a time, into 4 MB. Of shorter stretches calls are what costs: each finds the interpreter
thrown out of the nearest caches by what was read before.
"""

Array = npt.NDArray[Any]


def square_sums(vectors: Array) -> npt.NDArray[np.float64]:
    """
    Of each row of a float32 or float64 array [rows, n]; inf or 0 where squares leave the dtype's range.

    Relative error 2e-7, 1e-6 where elements are alike. Cost: a pass and a few us.
    """
    count, length = vectors.shape
    split = length - length % _ROW
    sums: npt.NDArray[np.float64] = np.zeros(count)
    if split:
        sums += _dots(vectors[:, :split].reshape(count, -1, _ROW)).sum(axis=1, dtype=np.float64)
    if split < length:
        sums += _dots(vectors[:, split:])
    return sums


def batch_square_sums(values: Array, lengths: Sequence[int]) -> npt.NDArray[np.float64]:
    """
    Of the tensors of a batch (batches.py), of so many elements each, that lie one after the other in a flat array.

    Those of one size as a matrix, in the dtype that they have; small ones in float64. What is not finite stays so, silently.
    """
    with np.errstate(all="ignore"):
        if lengths[0] > MIXED:
            return square_sums(values.reshape(len(lengths), -1))
        wide = values.astype(np.float64)
        width = len(values) // sum(lengths)  # a complex element is two numbers
        starts = starts_of(lengths) * width
        sums: npt.NDArray[np.float64] = np.add.reduceat(np.square(wide, out=wide), starts)
    return sums


class Widener:
    """
    Sums of squares of dtypes that are computed in a wider one, which is made a stretch at a time and always in one place:
    fresh memory costs as much as a pass.
    """

    def __init__(self) -> None:
        self._rooms: dict[torch.dtype, torch.Tensor] = {}

    def square_sum(self, flat: torch.Tensor) -> float:
        """Of a flat tensor in the host's memory, of any dtype that can be read. Two to three passes for bfloat16."""
        flat = as_real(flat)
        compute = READINGS[flat.dtype].compute
        room = self._rooms.get(compute)
        if room is None or len(room) < min(len(flat), _WIDENED):
            size = min(len(flat), _WIDENED)
            room = self._rooms[compute] = torch.empty(size, dtype=compute, device="cpu")
        total = 0.0
        for stretch in torch.split(flat, _WIDENED):
            wide = room[: len(stretch)].copy_(stretch)
            total += float(square_sums(wide.numpy()[None])[0])
        return total


def _dots(rows: Array) -> Array:
    """One sum of squares a row, by the dot product that matmul calls for two vectors. [..., n] -> [...]"""
    sums: Array = np.matmul(rows[..., None, :], rows[..., :, None])[..., 0, 0]
    return sums
