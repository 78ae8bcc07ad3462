"""
Steps that a gradient scaler was asked for and did not make: torch's hooks never hear of them.

Touches `torch.amp.GradScaler.step` while any agent is attached: whatever calls it calls ours, which calls it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from trainvitals.frame import StepsAttempted
from trainvitals.patches import SharedPatch
from trainvitals.probes.probe import Probe
from trainvitals.record import Record
from trainvitals.scalar import number_of
from trainvitals.slots import SlotTable

RECENT = 20
"""Attempts that an event counts."""
TELL_EVERY = 10
"""Attempts between two events, later a tenth of all so far."""


class Attempts(Probe):
    """
    Counts the attempts of one agent's optimizers, and tells of the last ones while there are skipped ones among them.

    An attempt is skipped if no step of the optimizer began within it. Optimizers that are handed the scale and skip
    by themselves (`fused=True`) always step. On the trainer's thread; 2 us an attempt, no device sync.
    """

    name = "attempts"

    def __init__(
        self,
        record: Record,
        steps_done: Callable[[], int],
        owns: Callable[[Optimizer], bool],
        steps_begun: Callable[[], int],
    ) -> None:
        """`steps_begun()`: of our optimizers, so far."""
        self._record = record
        self._steps_done = steps_done
        self._owns = owns
        self._pid = os.getpid()
        self._steps_begun = steps_begun
        self._begun_before = 0
        self._recent: deque[tuple[bool, float | None]] = deque(maxlen=RECENT)
        self._attempts = self._skipped = self._told = 0
        self.skipped_in_a_row = 0

    def attached(self, slots: SlotTable) -> None:  # noqa: ARG002  (that it happens is all)
        """Begin to listen."""
        _PATCH.hold(self)

    def close(self) -> None:
        """Stop to listen; the last agent gives the function back."""
        _PATCH.release(self)

    def touched(self) -> list[str]:
        """What is replaced now."""
        return _PATCH.touched(self)

    def begins(self) -> None:
        """A scaler is asked for a step."""
        self._begun_before = self._steps_begun()

    def ends(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """It has made it, or not."""
        self.guarded(self.name, self._count, scaler, optimizer)

    def _count(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        if os.getpid() != self._pid or not self._owns(optimizer):
            return
        skipped = self._steps_begun() == self._begun_before
        self._attempts += 1
        self._skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        scale = getattr(scaler, "_scale", None)
        self._recent.append((skipped, None if scale is None else number_of(scale)))
        since = self._attempts - self._told
        if since >= max(TELL_EVERY, self._attempts // 10) and any(bad for bad, _ in self._recent):
            self._told = self._attempts
            self._record.event(self._event())

    def _event(self) -> StepsAttempted:
        (_, first), (_, last) = self._recent[0], self._recent[-1]
        return StepsAttempted(
            step=self._steps_done(),
            attempts=self._attempts,
            skipped=self._skipped,
            recent=len(self._recent),
            recent_skipped=sum(bad for bad, _ in self._recent),
            scale_falls=None if first is None or last is None else last < first,
        )


def _around(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    optimizer = args[1] if len(args) > 1 else kwargs.get("optimizer")
    if torch.compiler.is_compiling() or not isinstance(optimizer, Optimizer):
        return original(*args, **kwargs)
    listeners = _PATCH.listeners
    for listener in listeners:
        listener.begins()
    result = original(*args, **kwargs)
    for listener in listeners:
        listener.ends(args[0], optimizer)
    return result


_PATCH: SharedPatch[Attempts] = SharedPatch(
    GradScaler, "step", "torch.amp.GradScaler.step", _around
)
