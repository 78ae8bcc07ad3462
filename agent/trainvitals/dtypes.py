"""
Which dtype allows which reading. What is not in the table, or does not lie in memory as strides say, is "no data".

The kernels differ by dtype in ways that are no concern of a probe: index_select lacks unsigned integers, aminmax
lacks fp8 and complex, `_foreach_norm` integers and fp8, and 16-bit norms are rounded to 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Reading:
    """
    How elements of a dtype are read. `bits`: an integer dtype of the same width, for bitwise comparison (of the two
    halves of a complex number). `compute`: where arithmetic is done (float32 holds 16-bit floats exactly).
    `ordered`: has a smallest element. `is_float`: can hold NaN.
    """

    bits: torch.dtype
    compute: torch.dtype
    ordered: bool = True
    is_float: bool = True


def _integer(bits: torch.dtype) -> Reading:
    return Reading(bits=bits, compute=torch.float64, is_float=False)


_BYTE = Reading(bits=torch.uint8, compute=torch.float32)
_HALF = Reading(bits=torch.int16, compute=torch.float32)

READINGS: dict[torch.dtype, Reading] = {
    torch.float64: Reading(bits=torch.int64, compute=torch.float64),
    torch.float32: Reading(bits=torch.int32, compute=torch.float32),
    torch.float16: _HALF,
    torch.bfloat16: _HALF,
    torch.complex32: Reading(bits=torch.int16, compute=torch.float32, ordered=False),
    torch.complex64: Reading(bits=torch.int32, compute=torch.float32, ordered=False),
    torch.complex128: Reading(bits=torch.int64, compute=torch.float64, ordered=False),
    torch.bool: _integer(torch.uint8),
    torch.uint8: _integer(torch.uint8),
    torch.int8: _integer(torch.uint8),
    torch.int16: _integer(torch.int16),
    torch.uint16: _integer(torch.int16),
    torch.int32: _integer(torch.int32),
    torch.uint32: _integer(torch.int32),
    torch.int64: _integer(torch.int64),
    torch.uint64: _integer(torch.int64),
    # By name: not every torch since 2.6 has each of them.
    **{
        getattr(torch, name): _BYTE
        for name in (
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
        )
        if hasattr(torch, name)
    },
}

# Dtypes that index_select knows on every device; the others are indexed as their bits.
INDEXABLE = frozenset(
    {
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.complex128,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def reading(part: torch.Tensor) -> Reading | None:
    """
    How the part's elements can be read where they lie, or None: no data.

    None for: sparse, nested, quantised, meta, subclasses that keep their data elsewhere, dtypes outside of the table, and
    memory that is gone (FSDP frees gathered parameters by resizing their storage to 0; reading that is a segfault), all
    of it or a part.
    Cost: 0.6 us.
    """
    if (
        type(part) not in _PLAIN
        or part.layout is not torch.strided
        or part.is_meta
        or part.is_nested
        or (part.untyped_storage().nbytes() < part.nbytes and not _is_within_storage(part))
    ):
        return None
    return READINGS.get(part.dtype)


def _is_within_storage(part: torch.Tensor) -> bool:
    """Whether its memory is all there, although it is less than its elements take: expanded ones repeat theirs."""
    reach = sum((size - 1) * step for size, step in zip(part.shape, part.stride(), strict=True))
    needed = (part.storage_offset() + reach + 1) * part.element_size() if part.numel() else 0
    return needed <= part.untyped_storage().nbytes()


def as_real(flat: torch.Tensor) -> torch.Tensor:
    """A complex tensor as its real and imaginary parts in turn, flat; any other as it is."""
    return torch.view_as_real(flat).view(-1) if flat.is_complex() else flat
