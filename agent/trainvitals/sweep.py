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

from trainvitals.batches import BATCH_ELEMENTS, MIXED, batches, flatten, starts_of
from trainvitals.dtypes import READINGS, reading
from trainvitals.squares import Widener, batch_square_sums, square_sums

_MIDDLING = 1 << 15
"""Elements up to which a tensor is joined with others: a copy costs less than calls for it alone."""
_JOINED = 1 << 17
"""Elements that are joined at a time: half a megabyte of float32, which is still near when it is read."""
_ROW = 1024
_BY_BLAS = frozenset({torch.float64, torch.float32})
_NATIVE = _BY_BLAS | {torch.float16, torch.bfloat16}
# Squares of smaller elements are lost, or have lost digits, below float32's smallest normal number 1.2e-38.
_UNDERFLOW = 1e-15

Floats = npt.NDArray[np.float64]


def can_norm(part: torch.Tensor) -> bool:
    """Whether `norms` and `nonfinite_counts` can read it; if not, there is no data about it (no row)."""
    return reading(part) is not None


def were_read(parts: Sequence[torch.Tensor], part_norms: Floats) -> npt.NDArray[np.bool_]:
    """Of which parts `norms` could read the elements: all that have a number, and those in which a NaN is. [parts]"""
    read = ~np.isnan(part_norms)
    for row in np.flatnonzero(~read).tolist():
        read[row] = can_norm(parts[row])
    return read


def can_extremes(part: torch.Tensor) -> bool:
    """Whether `extremes` can read it: an order among its elements, and at least one of them."""
    how = reading(part)
    return how is not None and how.ordered and part.numel() > 0


@torch.no_grad()
def norms(parts: Sequence[torch.Tensor]) -> Floats:
    """
    Exact L2 norms of local parts, one float64 each; any dtype that `can_norm` allows, contiguous or not.

    NaN or inf where an element is; never inf or 0 by overflow or underflow. A part that can't be read gives nan: see
    `were_read`. Relative error 1e-7, 5e-7 where elements are alike; a tensor's norm is the same in any company. Cost: a
    memory pass, two to three for what is widened (bfloat16) or joined, more for what is not contiguous; 1 us for a small
    tensor, 3 us for one of some thousand elements.
    """
    squares = np.full(len(parts), np.nan)
    joined: list[int] = []
    large: list[int] = []
    elsewhere: list[int] = []
    for row, part in enumerate(parts):
        if reading(part) is None:
            continue
        numel = part.numel()
        if numel <= MIXED or (numel <= _MIDDLING and part.is_cpu):
            joined.append(row)
        elif part.is_cpu:
            large.append(row)
        else:
            elsewhere.append(row)
    squares[joined] = squares[elsewhere] = 0.0
    for batch in batches(parts, joined, _JOINED):
        members = [parts[row] for row in batch]
        values = _computed(flatten(members)).cpu().numpy().reshape(-1)
        squares[batch] = batch_square_sums(values, [part.numel() for part in members])
    with np.errstate(all="ignore"):
        widener = Widener()
        for row in large:
            squares[row] = _large_square_sum(parts[row], widener)
    _square_elsewhere(parts, elsewhere, squares)
    result: Floats = np.sqrt(squares)
    for row in _suspects(parts, result):
        result[row] = _careful_norm(parts[row], float(result[row]))
    return result


@torch.no_grad()
def nonfinite_counts(parts: Sequence[torch.Tensor], part_norms: Floats) -> npt.NDArray[np.int64]:
    """Elements that are NaN or infinite. `part_norms` are the gate: a finite norm is 0 without another pass."""
    counts = np.zeros(len(parts), np.int64)
    for row in np.flatnonzero(~np.isfinite(part_norms)).tolist():
        how = reading(parts[row])
        if how is not None and how.is_float:
            found = [_count_nonfinite(piece) for piece in _pieces(parts[row])]
            counts[row] = int(torch.stack(found).sum()) if found else 0
    return counts


@torch.no_grad()
def extremes(parts: Sequence[torch.Tensor]) -> tuple[Floats, Floats, Floats]:
    """
    Smallest and largest elements, and the sums of all; nan where an element is NaN, and where `can_extremes` says no.

    Large parts have no sum: that would be a pass of its own.
    """
    low, high, total = np.full((3, len(parts)), np.nan)
    readable = [row for row, part in enumerate(parts) if can_extremes(part)]
    small = [row for row in readable if parts[row].numel() <= MIXED]
    for batch in batches(parts, small):
        members = [parts[row] for row in batch]
        values = _computed(flatten(members)).cpu().numpy()
        starts = starts_of([part.numel() for part in members])
        with np.errstate(invalid="ignore"):
            low[batch] = np.minimum.reduceat(values, starts)
            high[batch] = np.maximum.reduceat(values, starts)
            total[batch] = np.add.reduceat(values, starts, dtype=np.float64)
    for row in readable:
        if parts[row].numel() > MIXED:
            low[row], high[row] = _extremes(parts[row])
    return low, high, total


def _large_square_sum(part: torch.Tensor, widener: Widener) -> float:
    """Of a part in the host's memory."""
    memory = _in_memory_order(part)
    if not memory.is_contiguous():  # what needs a copy is copied piece by piece
        return sum(float(square_sums(piece.reshape(1, -1).numpy())[0]) for piece in _pieces(part))
    flat = memory.detach().view(-1)
    if part.dtype in _BY_BLAS:
        return float(square_sums(flat.numpy()[None])[0])
    return widener.square_sum(flat.resolve_conj())


def _square_elsewhere(parts: Sequence[torch.Tensor], rows: Sequence[int], squares: Floats) -> None:
    """Sums of squares of parts on devices into `squares`; one copy to the host for each device."""
    waiting: dict[torch.device, tuple[list[int], list[torch.Tensor]]] = {}
    for row in rows:
        part = parts[row]
        owners, sums = waiting.setdefault(part.device, ([], []))
        memory = _in_memory_order(part)
        # What needs no copy goes in one call; copies are made and let go one by one.
        whole = memory.is_contiguous() and part.dtype in _NATIVE
        for piece in [memory] if whole else _pieces(part):
            owners.append(row)
            sums.append(_device_square_sum(piece.reshape(-1)))
    for owners, sums in waiting.values():
        np.add.at(squares, owners, torch.stack(sums).tolist())


def _device_square_sum(flat: torch.Tensor) -> torch.Tensor:
    """As squares.square_sums, left on the device as a float64 scalar."""
    compute = READINGS[flat.dtype].compute
    rows = flat.numel() // _ROW
    matrix, rest = flat[: rows * _ROW].view(rows, _ROW), flat[rows * _ROW :]
    row_norms = torch.linalg.vector_norm(matrix, dim=1, dtype=compute)
    tail = torch.linalg.vector_norm(rest, dtype=compute).double()
    total: torch.Tensor = row_norms.double().square().sum() + tail.square()
    return total


def _count_nonfinite(piece: torch.Tensor) -> torch.Tensor:
    # isfinite costs 20 passes on CPU; x * 0 is 0 for a finite x, and NaN, which is not zero, otherwise.
    zeros = piece * 0
    return torch.count_nonzero(zeros.sum(-1) if zeros.dim() > 1 else zeros)


def _suspects(parts: Sequence[torch.Tensor], found: Floats) -> Iterator[int]:
    """
    Rows whose norm may have overflowed, or lost its digits below. All-zero ones are many (fresh biases, LoRA's B), and
    are told apart together.
    """
    tiny: list[int] = []
    for row in np.flatnonzero(~((found >= _UNDERFLOW) & (found < math.inf))).tolist():
        how = reading(parts[row])
        if how is None or not how.is_float:
            continue
        if found[row] < _UNDERFLOW:
            tiny.append(row)
        else:
            yield row
    for batch in batches(parts, tiny):
        one = flatten([parts[row] for row in batch]) if len(batch) > 1 else parts[batch[0]]
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
    """
    The elements in any order, flat, in chunks of 64k at most, in the dtype that is computed in; complex ones [n, 2].
    """
    numel = part.numel()
    memory = _in_memory_order(part)
    if memory.is_contiguous():
        for chunk in torch.split(memory.view(-1), BATCH_ELEMENTS) if numel else ():
            yield _computed(chunk)
    elif numel <= BATCH_ELEMENTS:
        yield _computed(part.reshape(-1))
    else:
        dim = max(range(part.dim()), key=lambda dim: part.shape[dim])
        size = max(1, part.shape[dim] * BATCH_ELEMENTS // numel)
        for slab in torch.split(part, size, dim):
            yield from _pieces(slab)


def _in_memory_order(part: torch.Tensor) -> torch.Tensor:
    """A transposed or channels-last tensor with its dims as they lie in memory: statistics don't mind the order."""
    if part.is_contiguous():
        return part
    strides = part.stride()
    return part.permute(sorted(range(part.dim()), key=lambda dim: -strides[dim]))


def _computed(flat: torch.Tensor) -> torch.Tensor:
    if flat.is_complex():
        flat = torch.view_as_real(flat.resolve_conj())
    return flat.to(READINGS[flat.dtype].compute)
