"""
Digests: a cut in a few numbers that add up over shards. Equal digests are equal bits; sketches tell distances.

The digest is the sum modulo 2^64 of mix(mix(i) ^ b) over elements with global index i and bits b, zero-extended; mix is
splitmix64's finalizer. A complex element counts as two, at 2i and 2i + 1. Sketch k sums the elements, each with the
sign that bit k of mix(i) gives (1: minus). Both are part of the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import batches, flatten, starts_of
from trainvitals.cores.positions import CorePlan, mix
from trainvitals.dtypes import READINGS, as_real
from trainvitals.facts import SKETCH_SIZE, SKETCHES
from trainvitals.squares import batch_square_sums

_BINS = 1 << SKETCH_SIZE
_SIGNS = 1.0 - 2.0 * ((np.arange(_BINS)[:, None] >> np.arange(SKETCH_SIZE)) & 1)


@torch.no_grad()
def digest_many(
    cuts: Sequence[torch.Tensor], plans: Sequence[CorePlan]
) -> dict[str, npt.NDArray[Any]]:
    """
    The columns of facts.DIGESTS without its keys: digest, count, square_sum, sketch_0 to sketch_7; one row a cut.

    Summed over shards they equal the unsharded ones, `digest` to the bit. A cut that does not have its plan's length
    has count 0: no data. For a cast digest hand in `cut.to(dtype)`. Cost: 5 us a tensor and 10 ns an element.
    """
    rows = len(cuts)
    digest = np.zeros(rows, np.uint64)
    count = np.zeros(rows, np.int64)
    square_sum = np.zeros(rows)
    sketch = np.zeros((rows, SKETCH_SIZE))
    fitting = [
        row
        for row, (part, plan) in enumerate(zip(cuts, plans, strict=True))
        if part.numel() == plan.count and part.dtype in READINGS
    ]
    for batch in batches(cuts, fitting):
        flat = flatten([cuts[row] for row in batch])
        index = np.concatenate([plans[row].global_indices() for row in batch])
        lengths = [plans[row].count for row in batch]
        count[batch] = lengths
        width = 2 if flat.is_complex() else 1
        if width == 2:
            index = (index[:, None] * np.uint64(2) + np.arange(2, dtype=np.uint64)).ravel()
        hashes = mix(index)
        values = _real(flat)
        square_sum[batch] = batch_square_sums(values, lengths)
        lengths = [length * width for length in lengths]
        sketch[batch] = _sketch(values, hashes, lengths)
        hashes ^= _bits(flat)
        digest[batch] = np.add.reduceat(mix(hashes), starts_of(lengths))
    sketches = {name: np.ascontiguousarray(sketch[:, k]) for k, name in enumerate(SKETCHES)}
    return {"digest": digest, "count": count, "square_sum": square_sum, **sketches}


def _bits(flat: torch.Tensor) -> npt.NDArray[np.uint64]:
    signed = as_real(flat).view(READINGS[flat.dtype].bits).cpu().numpy()
    return signed.view(f"u{signed.itemsize}").astype(np.uint64)


def _real(flat: torch.Tensor) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = as_real(flat).to(torch.float64).cpu().numpy()
    return values


def _sketch(
    values: npt.NDArray[np.float64], hashes: npt.NDArray[np.uint64], lengths: Sequence[int]
) -> npt.NDArray[np.float64]:
    """
    Signed sums [rows, SKETCH_SIZE]. Values with the same eight signs are summed first, in one pass over the elements
    instead of eight; the signs are applied to the 256 sums.
    """
    rows = len(lengths)
    bins = (hashes & np.uint64(_BINS - 1)).view(np.int64)
    bins += np.repeat(np.arange(rows) * _BINS, lengths)
    sums = np.bincount(bins, weights=values, minlength=rows * _BINS).reshape(rows, _BINS)
    with np.errstate(all="ignore"):
        signed: npt.NDArray[np.float64] = sums @ _SIGNS
    return signed
