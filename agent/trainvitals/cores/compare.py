"""
What changed between two cuts of the same plans, and what else their elements say.

Thousands of small tensors are compared as a few long arrays, summed by segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import MIXED, batches, flatten, starts_of
from trainvitals.dtypes import READINGS, as_real
from trainvitals.squares import batch_square_sums

_DTYPE = attrgetter("dtype")
_COMPARED = 1 << 17
"""Elements that are compared at a time: of fewer, calls are what costs."""
_UNDERFLOW = 1e-30
"""Mean squares below this may have lost elements to float32, which ends at 1e-38."""

Mask = npt.NDArray[np.uint8]
"""One bit an element of a cut, as np.packbits has them: masks of all tensors wait for the step that they were cut before."""
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """
    What changed between two cuts, one row a tensor; columns as facts.UPDATES has them.

    `square_sum`: sum of the squared differences (not finite if a changed element is not). `looked`: elements
    compared; 0 where the two cuts can't be compared (another dtype or length, nothing cut). `changed`: elements whose
    bits differ. `with_gradient`, `lost`: as in facts.UPDATES; 0 without gradients.
    """

    square_sum: npt.NDArray[np.float64]
    looked: npt.NDArray[np.int64]
    changed: npt.NDArray[np.int64]
    with_gradient: npt.NDArray[np.int64]
    lost: npt.NDArray[np.int64]


@torch.no_grad()
def compare(
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    had_gradient: Sequence[Mask | None] | None = None,
) -> Differences:
    """
    Compare cuts of the same plans, pairwise. `had_gradient`: masks from `nonzero`, None where there are none.

    `changed` compares bits, so NaN stays NaN, and every dtype works. Cost: 3 us a tensor and 1 ns an element.
    """
    rows = len(before)
    found = Differences(
        square_sum=np.zeros(rows),
        looked=np.zeros(rows, np.int64),
        changed=np.zeros(rows, np.int64),
        with_gradient=np.zeros(rows, np.int64),
        lost=np.zeros(rows, np.int64),
    )
    kinds = zip(_kinds(before), _kinds(after), strict=True)
    alike = [row for row, (old, new) in enumerate(kinds) if old == new]
    for batch in batches(before, alike, _COMPARED):
        _compare_batch(batch, before, after, had_gradient, found)
    return found


def nonzero(cuts: Sequence[torch.Tensor]) -> list[Mask]:
    """For each cut, which elements are not zero (NaN is not): of gradients, for `compare`. As a rule all: one mask."""
    masks = [np.zeros(0, np.uint8)] * len(cuts)
    for batch in batches(cuts, range(len(cuts))):
        values = _values(flatten([cuts[row] for row in batch]))
        nonzeros = _per_element(values != 0, cuts[batch[0]])
        if nonzeros.all():
            for row in batch:
                masks[row] = _all(cuts[row].numel())[0]
            continue
        begin = 0
        for row in batch:
            end = begin + cuts[row].numel()
            masks[row] = np.packbits(nonzeros[begin:end])
            begin = end
    return masks


@lru_cache(maxsize=64)
def _all(length: int) -> tuple[Mask, _Bools]:
    """The mask of so many elements that has them all, packed and unpacked."""
    every = np.ones(length, np.bool_)
    return np.packbits(every), every


def _compare_batch(
    batch: list[int],
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    had_gradient: Sequence[Mask | None] | None,
    found: Differences,
) -> None:
    olds, news = [before[row] for row in batch], [after[row] for row in batch]
    lengths = [old.numel() for old in olds]
    old, new = flatten(olds), flatten(news)
    differs = _bits(old) != _bits(new)
    changed = _per_element(differs, old)
    found.looked[batch] = lengths
    found.changed[batch] = counts = _counts(changed, lengths)
    found.square_sum[batch] = _squared_differences(old, new, differs, lengths, counts)
    masks = [] if had_gradient is None else [had_gradient[row] for row in batch]
    if any(mask is not None for mask in masks):
        had = np.concatenate([_mask(*pair) for pair in zip(masks, lengths, strict=True)])
        found.with_gradient[batch] = _counts(had, lengths)
        if not changed.all():
            found.lost[batch] = _counts(had & ~changed, lengths)


def _kinds(cuts: Sequence[torch.Tensor]) -> Iterator[tuple[torch.dtype, int, int]]:
    """What must be the same of two cuts. By calls from C: thousands of cuts are asked."""
    numel, device = torch.Tensor.numel, torch.Tensor.get_device
    return zip(map(_DTYPE, cuts), map(numel, cuts), map(device, cuts), strict=True)


def _counts(mask: _Bools, lengths: list[int]) -> npt.NDArray[np.int64]:
    """How many are True in each segment. All of them, as a rule in float32: that is seen ten times as fast."""
    if mask.all():
        return np.array(lengths)
    if lengths[0] > MIXED:
        rows = mask.reshape(len(lengths), -1)
        return np.array([np.count_nonzero(row) for row in rows])
    return np.add.reduceat(mask, starts_of(lengths), dtype=np.int64)


def _squared_differences(
    old: torch.Tensor,
    new: torch.Tensor,
    differs: _Bools,
    lengths: list[int],
    changed: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    # In float32 a difference is rounded once, to 6e-8 of itself.
    with np.errstate(all="ignore"):
        difference = _values(new) - _values(old)
    sums = batch_square_sums(difference, lengths)
    fits = (sums >= _UNDERFLOW * np.array(lengths)) & np.isfinite(sums)
    odd = ~(fits | (changed == 0) & (sums == 0))
    if odd.any():
        # Squares leave float32's range, or elements are not finite: inf - inf is no change.
        wide = difference.astype(np.float64)
        wide[~differs] = 0.0
        sums[odd] = batch_square_sums(wide, lengths)[odd]
    return sums


def _bits(flat: torch.Tensor) -> npt.NDArray[Any]:
    bits: npt.NDArray[Any] = as_real(flat).view(READINGS[flat.dtype].bits).cpu().numpy()
    return bits


def _values(flat: torch.Tensor) -> npt.NDArray[Any]:
    """As float32 or float64; shares the memory where the dtype already is: read only."""
    values: npt.NDArray[Any] = as_real(flat).to(READINGS[flat.dtype].compute).cpu().numpy()
    return values


def _per_element(mask: _Bools, tensor: torch.Tensor) -> _Bools:
    """A complex element has two parts; it counts once."""
    if not tensor.is_complex():
        return mask
    return mask[0::2] | mask[1::2]


def _mask(mask: Mask | None, length: int) -> _Bools:
    packed, every = _all(length)
    if mask is packed:
        return every
    if mask is None or len(mask) != len(packed):
        return np.zeros(length, np.bool_)
    return np.unpackbits(mask, count=length).view(np.bool_)
