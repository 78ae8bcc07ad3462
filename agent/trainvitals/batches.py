"""
Many small tensors read as few flat ones: per-tensor calls would cost more than the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

BATCH_ELEMENTS = 1 << 16
"""Elements worked on at a time: 256 KB of float32, so that what is made of them on the way stays in the cache."""
BATCH_ROWS = 1024
MIXED = 1024
"""Elements up to which a tensor shares a batch with those of other sizes."""


def batches(
    tensors: Sequence[torch.Tensor], rows: Iterable[int], limit: int = BATCH_ELEMENTS
) -> Iterator[list[int]]:
    """
    Those of `rows` whose tensors have elements, grouped by dtype and device, in batches of up to `limit` elements.

    Those of more than MIXED elements come with others of their size only, so that a batch is a matrix, and that what is
    computed of one by rows is the same in any company. One that is larger than a batch comes alone.
    """
    # Two lists a kind, and no pair a tensor: Python's collector looks at thousands of these again and again.
    kinds: dict[tuple[torch.dtype, int, int], tuple[list[int], list[int]]] = {}
    for row in rows:
        tensor = tensors[row]
        numel = tensor.numel()
        if numel:
            kind = tensor.dtype, tensor.get_device(), numel if numel > MIXED else 0
            found = kinds.get(kind)
            if found is None:
                found = kinds[kind] = [], []
            found[0].append(row)
            found[1].append(numel)
    for members, sizes in kinds.values():
        begin = size = 0
        for end, numel in enumerate(sizes):
            if end > begin and (size + numel > limit or end - begin == BATCH_ROWS):
                yield members[begin:end]
                begin, size = end, 0
            size += numel
        yield members[begin:]


def flatten(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All elements in one 1-D tensor, each tensor in row-major order; a single contiguous one is not copied."""
    # Of equal shapes, `cat` makes no view of each. (A scalar can't be concatenated; a single one would be copied.)
    if len(tensors) > 1 and tensors[0].dim() and len(set(map(torch.Tensor.size, tensors))) == 1:
        return torch.cat(list(tensors)).reshape(-1)
    # One call from C++; DDP and ZeRO flatten their buckets with it.
    flat: torch.Tensor = torch._C._nn.flatten_dense_tensors(list(tensors))
    return flat


def starts_of(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each of the joined tensors begins, for `np.add.reduceat`. None of them may be empty."""
    starts = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return starts
