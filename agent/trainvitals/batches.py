"""
Many small tensors read as few flat ones: per-tensor calls would cost more than the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

BATCH_ELEMENTS = 1 << 18
"""Elements worked on at a time: 1 MB of float32, so that temporaries stay in the cache."""
BATCH_ROWS = 1024


def batches(
    tensors: Sequence[torch.Tensor], rows: Iterable[int], limit: int = BATCH_ELEMENTS
) -> Iterator[list[int]]:
    """
    Those of `rows` whose tensors have elements, grouped by dtype and device, in batches of up to `limit` elements.

    A tensor that is larger than a batch comes alone.
    """
    kinds: dict[tuple[torch.dtype, int], list[tuple[int, int]]] = {}
    for row in rows:
        tensor = tensors[row]
        numel = tensor.numel()
        if numel:
            kinds.setdefault((tensor.dtype, tensor.get_device()), []).append((row, numel))
    for members in kinds.values():
        batch: list[int] = []
        size = 0
        for row, numel in members:
            if batch and (size + numel > limit or len(batch) == BATCH_ROWS):
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += numel
        yield batch


def flatten(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All elements in one 1-D tensor, each tensor in row-major order; a single contiguous one is not copied."""
    # One call from C++; DDP and ZeRO flatten their buckets with it.
    flat: torch.Tensor = torch._C._nn.flatten_dense_tensors(list(tensors))
    return flat


def starts_of(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each of the joined tensors begins, for `np.add.reduceat`. None of them may be empty."""
    starts = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return starts
