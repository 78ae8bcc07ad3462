"""
A number on its way from a device to the host: nobody waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from trainvitals.layout import local_part


@dataclass(frozen=True, eq=False)
class Underway:
    """`number` is its copy on the host, valid once `has_arrived`. (Not run on CUDA: no GPU was at hand.)"""

    number: torch.Tensor
    arrived: Any

    @property
    def has_arrived(self) -> bool:
        """Whether it can be read without waiting."""
        return self.arrived is None or bool(self.arrived.query())

    def read(self) -> float:
        """The number; waits for the device if it must."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return float(self.number)


@torch.no_grad()
def send_home(value: torch.Tensor) -> Underway:
    """
    Copies a tensor of one element to the host, to pinned memory if it comes from CUDA; no device sync.

    The copy is taken here, so that the tensor may be changed in place, or its memory used again. Raises ValueError for
    more or fewer elements.
    """
    part = local_part(value)
    if part.numel() != 1:
        raise ValueError(f"one element is needed, not {list(value.shape)}")
    on_cuda = part.device.type == "cuda"
    number = torch.empty((), dtype=part.dtype, pin_memory=on_cuda)
    number.copy_(part.reshape(()), non_blocking=on_cuda)
    arrived = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
    if arrived is not None:
        arrived.record(torch.cuda.current_stream(part.device))
    return Underway(number, arrived)
