"""
Numbers that the trainer logs: floats at once, tensors on a device later, when they have arrived by themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainvitals.layout import local_part
from trainvitals.record import Record


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A number on its way from a device: `number` is its copy on the host, valid once `arrived` says so."""

    name: str
    step: int
    number: torch.Tensor
    arrived: Any

    def has_arrived(self) -> bool:
        return self.arrived is None or bool(self.arrived.query())


class Log:
    """
    Scalars by name, on the trainer's thread.

    A tensor on the CPU is read at once. One on a device is copied to pinned memory without waiting for it, and read
    when its event is done: at a later call, or at `flush` (which waits). The copy is taken in the call, so that a
    running mean that is changed in place afterwards does no harm. (Not run on CUDA: no GPU was at hand.)
    """

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()

    def log(self, record: Record, step: int, values: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for what is no number; the values before it are kept."""
        self._read(record, wait=False)
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                self._waiting.append(_send_home(name, step, value))
            else:
                record.scalar(name, step, _as_float(name, value))

    def flush(self, record: Record) -> None:
        """Everything that is still on its way; waits for the device."""
        self._read(record, wait=True)

    def _read(self, record: Record, *, wait: bool) -> None:
        while self._waiting and (wait or self._waiting[0].has_arrived()):
            waiting = self._waiting.popleft()
            if wait and waiting.arrived is not None:
                waiting.arrived.synchronize()
            record.scalar(waiting.name, waiting.step, float(waiting.number))


def _as_float(name: str, value: Any) -> float:
    try:
        return float(local_part(value)) if isinstance(value, torch.Tensor) else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"log({name}=...): a number or a tensor of one element is needed, not {_kind(value)}"
        ) from error


def _kind(value: Any) -> str:
    shape = f" of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else ""
    return type(value).__name__ + shape


@torch.no_grad()
def _send_home(name: str, step: int, value: torch.Tensor) -> _Waiting:
    part = local_part(value)
    if part.numel() != 1:
        raise TypeError(
            f"log({name}=...): a number or a tensor of one element is needed, not {_kind(value)}"
        )
    on_cuda = part.device.type == "cuda"
    number = torch.empty((), dtype=part.dtype, pin_memory=on_cuda)
    number.copy_(part.reshape(()), non_blocking=on_cuda)
    arrived = torch.cuda.Event() if on_cuda else None  # type: ignore[no-untyped-call]
    if arrived is not None:
        arrived.record(torch.cuda.current_stream(part.device))
    return _Waiting(name, step, number, arrived)
