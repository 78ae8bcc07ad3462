"""
Numbers that the trainer logs: floats at once, tensors on a device later, when they have arrived by themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from trainvitals.layout import is_dtensor, local_part
from trainvitals.record import Record
from trainvitals.underway import Underway, send_home


class Log:
    """
    Scalars by name, on the trainer's thread.

    A tensor on the CPU is read at once. One on a device is copied to pinned memory without waiting for it, and read
    when its event is done: at a later call, or at `flush` (which waits).
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, int, Underway]] = deque()

    def log(self, record: Record, step: int, name: str, value: Any) -> None:
        """Raises TypeError or ValueError for what is no number."""
        if self._waiting:
            self._read(record, wait=False)
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            self._waiting.append((name, step, _send_home(name, value)))
        else:
            record.scalar(name, step, _as_float(name, value))

    def flush(self, record: Record) -> None:
        """Everything that is still on its way; waits for the device."""
        self._read(record, wait=True)

    def _read(self, record: Record, *, wait: bool) -> None:
        while self._waiting and (wait or self._waiting[0][-1].has_arrived):
            name, step, number = self._waiting.popleft()
            record.scalar(name, step, number.read())


def _as_float(name: str, value: Any) -> float:
    try:
        if isinstance(value, torch.Tensor):
            value = (local_part(value) if is_dtensor(value) else value).item()
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refusal(name, value) from error


def _send_home(name: str, value: torch.Tensor) -> Underway:
    try:
        return send_home(value)
    except ValueError as error:
        raise _refusal(name, value) from error


def _refusal(name: str, value: Any) -> TypeError:
    return TypeError(
        f"log({name}=...): a number or a tensor of one element is needed, not {_kind(value)}"
    )


def _kind(value: Any) -> str:
    shape = f" of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else ""
    return type(value).__name__ + shape
