"""
The sweep: exact statistics of every element of a rank's part, in chunks.

Local parts only (`layout.local_part`), one copy to the host for many tensors. The kernels' own norms can't be used as
they are: on CPU fp32 ones are wrong on large tensors (4e-3 at 38M elements, pytorch #169237), 16-bit ones are rounded
to 16 bits, and squares overflow. Written to be right on CUDA too, where nothing of it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.batches import BATCH_ELEMENTS, batches, flatten, starts_of
from trainvitals.dtypes import READINGS, reading

_SMALL = 4096
# Squares of smaller elements are lost, or have lost digits, below float32's smallest normal number 1.2e-38.
_UNDERFLOW = 1e-15

Floats = npt.NDArray[np.float64]


def can_norm(part: torch.Tensor) -> bool:
    """Whether `norms` and `nonfinite_counts` can read it; if not, there is no data about it (no row)."""
    return reading(part) is not None


def can_extremes(part: torch.Tensor) -> bool:
    """Whether `extremes` can read it: an order among its elements, and at least one of them."""
    how = reading(part)
    return how is not None and how.ordered and part.numel() > 0


@torch.no_grad()
def norms(parts: Sequence[torch.Tensor]) -> Floats:
    """
    Exact L2 norms of local parts, one float64 each; any dtype that `can_norm` allows, contiguous or not.

    NaN or inf where an element is; never inf or 0 by overflow or underflow. A part that can't be read gives nan:
    filter by `can_norm`. Relative error 1.5e-6. Cost: about one memory pass; two for 16-bit floats.
    """
    squares = np.full(len(parts), np.nan)
    small: list[int] = []
    large: list[int] = []
    for row, part in enumerate(parts):
        if reading(part) is not None:
            squares[row] = 0.0
            (small if part.numel() <= _SMALL and part.is_cpu else large).append(row)
    with np.errstate(all="ignore"):
        for batch in batches(parts, small):
            flat = _computed(flatten([parts[row] for row in batch])).numpy().astype(np.float64)
            starts = starts_of([parts[row].numel() for row in batch])
            squares[batch] = np.add.reduceat(flat * flat, starts)
        rows, values = _piece_norms(parts, large)
        np.add.at(squares, rows, values * values)
    result: Floats = np.sqrt(squares)
    for row in _suspects(parts, small + large, result):
        result[row] = _careful_norm(parts[row].detach(), float(result[row]))
    return result


@torch.no_grad()
def nonfinite_counts(parts: Sequence[torch.Tensor], part_norms: Floats) -> npt.NDArray[np.int64]:
    """Elements that are NaN or infinite. `part_norms` are the gate: a finite norm is 0 without another pass."""
    counts = np.zeros(len(parts), np.int64)
    for row in np.flatnonzero(~np.isfinite(part_norms)).tolist():
        how = reading(parts[row])
        if how is not None and how.is_float:
            # isfinite costs 20 passes on CPU; x * 0 is 0 for a finite x and NaN, which is no zero, otherwise.
            found = [torch.count_nonzero(piece * 0) for piece in _pieces(parts[row].detach())]
            counts[row] = int(torch.stack(found).sum())
    return counts


@torch.no_grad()
def extremes(parts: Sequence[torch.Tensor]) -> tuple[Floats, Floats]:
    """Smallest and largest elements; nan where an element is NaN, and where `can_extremes` says no."""
    low, high = np.full(len(parts), np.nan), np.full(len(parts), np.nan)
    readable = [row for row, part in enumerate(parts) if can_extremes(part)]
    small = [row for row in readable if parts[row].numel() <= _SMALL]
    for batch in batches(parts, small):
        flat = _computed(flatten([parts[row].detach() for row in batch])).cpu().numpy()
        starts = starts_of([parts[row].numel() for row in batch])
        with np.errstate(invalid="ignore"):
            low[batch] = np.minimum.reduceat(flat, starts)
            high[batch] = np.maximum.reduceat(flat, starts)
    for row in readable:
        if parts[row].numel() > _SMALL:
            low[row], high[row] = _extremes(parts[row].detach())
    return low, high


def _piece_norms(
    parts: Sequence[torch.Tensor], rows: Sequence[int]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The norm of every piece, and the row of the part that it belongs to. One copy to the host a device."""
    groups: dict[tuple[torch.dtype, torch.device], _PieceNorms] = {}
    for row in rows:
        part = parts[row].detach()
        group = groups.setdefault((READINGS[part.dtype].compute, part.device), _PieceNorms())
        for piece in _pieces(part):
            group.add(row, piece)
    owners = [row for group in groups.values() for row in group.rows]
    values = [value for group in groups.values() for value in group.values()]
    return np.array(owners, np.int64), np.array(values, np.float64)


class _PieceNorms:
    """Norms of pieces of one dtype on one device, many in one call; what had to be cast is let go in between."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._pieces: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._elements = 0

    def add(self, row: int, piece: torch.Tensor) -> None:
        self.rows.append(row)
        self._pieces.append(piece)
        self._elements += piece.numel()
        if self._elements > 4 * BATCH_ELEMENTS:
            self._flush()

    def values(self) -> list[float]:
        self._flush()
        found: list[float] = torch.stack(self._norms).tolist() if self._norms else []
        return found

    def _flush(self) -> None:
        if self._pieces:
            self._norms.extend(torch._foreach_norm(self._pieces))
        self._pieces, self._elements = [], 0


def _suspects(parts: Sequence[torch.Tensor], rows: Sequence[int], found: Floats) -> Iterator[int]:
    """
    Rows whose norm may have overflowed, or lost its digits below. All-zero ones are many (fresh biases, LoRA's B), and
    are told apart together.
    """
    tiny: list[int] = []
    for row in rows:
        if _UNDERFLOW <= found[row] < math.inf or not READINGS[parts[row].dtype].is_float:
            continue
        if found[row] < _UNDERFLOW:
            tiny.append(row)
        else:
            yield row
    for batch in batches(parts, tiny):
        one = flatten([parts[row] for row in batch]) if len(batch) > 1 else parts[batch[0]].detach()
        if _extremes(one) != (0.0, 0.0):
            yield from batch


def _careful_norm(part: torch.Tensor, found: float) -> float:
    """In float64, scaled by the largest element; `found` if an element is not finite."""
    largest = max(map(abs, _extremes(part)))
    if largest == 0.0 or not math.isfinite(largest):
        return found
    pieces = [torch.linalg.vector_norm(piece.double() / largest) for piece in _pieces(part)]
    return math.hypot(*torch.stack(pieces).tolist()) * largest


def _extremes(part: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest element, of a complex tensor's parts too; both nan if one is."""
    found = [torch.stack(piece.aminmax()) for piece in _pieces(part)]
    low, high = torch.stack(found).double().cpu().numpy().T
    with np.errstate(invalid="ignore"):
        return float(low.min()), float(high.max())


def _pieces(part: torch.Tensor) -> Iterator[torch.Tensor]:
    """The elements in any order, in chunks of 256k at most, as the dtype that is computed in; a copy only to cast."""
    numel = part.numel()
    if numel <= BATCH_ELEMENTS:
        if numel:
            yield _computed(part)
        return
    memory = _in_memory_order(part)
    if memory.is_contiguous():
        for chunk in torch.split(memory.view(-1), BATCH_ELEMENTS, 0):
            yield _computed(chunk)
        return
    dim = max(range(part.dim()), key=lambda dim: part.shape[dim])
    size = max(1, part.shape[dim] * BATCH_ELEMENTS // numel)
    for slab in torch.split(part, size, dim):
        yield from _pieces(slab)


def _in_memory_order(part: torch.Tensor) -> torch.Tensor:
    """A transposed or channels-last tensor with its dims as they lie in memory: statistics don't mind the order."""
    strides = part.stride()
    return part.permute(sorted(range(part.dim()), key=lambda dim: -strides[dim]))


def _computed(piece: torch.Tensor) -> torch.Tensor:
    if piece.is_complex():
        piece = torch.view_as_real(piece.resolve_conj())
    return piece.to(READINGS[piece.dtype].compute)
