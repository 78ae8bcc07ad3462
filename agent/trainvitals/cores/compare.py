"""
What changed between two cuts of the same plans, and what else their elements say.

Thousands of small tensors are compared as a few long arrays, summed by segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import batches, flatten, starts_of
from trainvitals.dtypes import READINGS, as_real

Mask = npt.NDArray[np.bool_]
"""One bool an element of a cut."""


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

    `changed` compares bits, so NaN stays NaN, and every dtype works. Cost: 3 us a tensor and 2 ns an element.
    """
    rows = len(before)
    found = Differences(
        square_sum=np.zeros(rows),
        looked=np.zeros(rows, np.int64),
        changed=np.zeros(rows, np.int64),
        with_gradient=np.zeros(rows, np.int64),
        lost=np.zeros(rows, np.int64),
    )
    alike = [
        row
        for row, (old, new) in enumerate(zip(before, after, strict=True))
        if old.dtype is new.dtype
        and old.numel() == new.numel()
        and old.get_device() == new.get_device()
    ]
    for batch in batches(before, alike):
        _compare_batch(batch, before, after, had_gradient, found)
    return found


def nonzero(cuts: Sequence[torch.Tensor]) -> list[Mask]:
    """For each cut, which elements are not zero (NaN is not): of gradients, for `compare`."""
    masks = [np.zeros(0, np.bool_)] * len(cuts)
    for batch in batches(cuts, range(len(cuts))):
        values = _values(flatten([cuts[row] for row in batch]))
        nonzeros = _per_element(values != 0, cuts[batch[0]])
        starts = starts_of([cuts[row].numel() for row in batch])
        for row, start in zip(batch, starts.tolist(), strict=True):
            masks[row] = nonzeros[start : start + cuts[row].numel()]
    return masks


def segment_squares(
    values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Sums of squares by segments; what is not finite stays so, silently."""
    with np.errstate(all="ignore"):
        return np.add.reduceat(values * values, starts)


def _compare_batch(
    batch: list[int],
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
    had_gradient: Sequence[Mask | None] | None,
    found: Differences,
) -> None:
    lengths = [before[row].numel() for row in batch]
    starts = starts_of(lengths)
    old = flatten([before[row] for row in batch])
    new = flatten([after[row] for row in batch])
    differs = _bits(old) != _bits(new)
    changed = _per_element(differs, old)
    found.looked[batch] = lengths
    found.changed[batch] = _counts(changed, starts, lengths)
    found.square_sum[batch] = _squared_differences(
        old, new, differs, _real_starts([before[row] for row in batch])
    )
    if had_gradient is not None:
        masks = [_mask(had_gradient[row], before[row].numel()) for row in batch]
        had = np.concatenate(masks)
        found.with_gradient[batch] = _counts(had, starts, lengths)
        if not changed.all():
            found.lost[batch] = _counts(had & ~changed, starts, lengths)


def _counts(
    mask: Mask, starts: npt.NDArray[np.int64], lengths: list[int]
) -> npt.NDArray[np.int64] | list[int]:
    """How many are True in each segment. All of them, as a rule in float32: that is seen ten times as fast."""
    return lengths if mask.all() else np.add.reduceat(mask, starts, dtype=np.int64)


def _squared_differences(
    old: torch.Tensor, new: torch.Tensor, differs: Mask, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    with np.errstate(all="ignore"):
        # In float32 a difference is rounded once, to 6e-8 of itself; squares and sums need float64's range.
        difference = (_values(new) - _values(old)).astype(np.float64)
    sums = segment_squares(difference, starts)
    if not np.isfinite(sums).all():
        difference[~differs] = 0.0  # inf - inf is no change
        sums = segment_squares(difference, starts)
    return sums


def _bits(flat: torch.Tensor) -> npt.NDArray[Any]:
    bits: npt.NDArray[Any] = as_real(flat).view(READINGS[flat.dtype].bits).cpu().numpy()
    return bits


def _values(flat: torch.Tensor) -> npt.NDArray[Any]:
    """As float32 or float64; shares the memory where the dtype already is: read only."""
    values: npt.NDArray[Any] = as_real(flat).to(READINGS[flat.dtype].compute).cpu().numpy()
    return values


def _per_element(mask: Mask, tensor: torch.Tensor) -> Mask:
    """A complex element has two parts; it counts once."""
    if not tensor.is_complex():
        return mask
    return mask[0::2] | mask[1::2]


def _real_starts(cuts: Sequence[torch.Tensor]) -> npt.NDArray[np.int64]:
    width = 2 if cuts[0].is_complex() else 1
    return starts_of([cut.numel() for cut in cuts]) * width


def _mask(mask: Mask | None, length: int) -> Mask:
    return mask if mask is not None and len(mask) == length else np.zeros(length, np.bool_)
