"""
The scalar whose `backward()` the trainer calls: near to its loss, and known without being told.

Touches `torch.autograd.backward` while any agent is attached (backwards.py).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from trainvitals.backwards import BACKWARDS
from trainvitals.capture import is_capturing
from trainvitals.facts import BACKWARD_CALLS, BACKWARD_SCALAR
from trainvitals.layout import is_dtensor
from trainvitals.probes.probe import Look, Probe
from trainvitals.record import Record
from trainvitals.slots import SlotTable
from trainvitals.underway import Underway, send_home

MAX_UNDERWAY = 1024
"""Numbers on their way from a device that one step may have; of a step with more nothing is told."""


class Backward(Probe):
    """
    The sum of what `backward()` was called of since the step before: what the step's gradients are the gradients of; and how
    many these were, where there were several.

    It is no loss: trainers divide it by the number of microbatches or tokens, and multiply it by a gradient scaler's
    scale, and what was done can't be known. Calls with gradients given (a pipeline's stages) are passed over, and so is all
    after a rest. On the CPU read at once, on CUDA when it has arrived; 10 us a call, no device sync. On other devices
    nothing is read.
    """

    name = "backward"

    def __init__(self) -> None:
        self._is_resting = False
        self._calls = 0
        self._sum = 0.0
        self._underway: list[Underway] = []
        self._waiting: deque[tuple[int, float, list[Underway]]] = deque()
        self._record: Record | None = None

    def attached(self, slots: SlotTable) -> None:  # noqa: ARG002  (that it happens is all)
        """Begin to listen."""
        BACKWARDS.hold(self)

    def after_step(self, look: Look) -> None:
        """The step's calls are complete; what has arrived of this and earlier ones is told."""
        if self._calls and len(self._underway) < MAX_UNDERWAY:
            self._waiting.append((look.step, self._sum, self._underway))
        if self._calls > 1:
            look.record.scalar(BACKWARD_CALLS, look.step, self._calls)
        self._begin(is_resting=False)
        self._record = look.record
        self._tell(look.record, wait=False)

    def rest(self, step: int) -> None:  # noqa: ARG002  (that it happens is all)
        """Nobody looks at this step; the calls for the next one come before it is known whether anybody does."""
        self._begin(is_resting=True)

    def is_idle(self) -> bool:
        """After the first of several rests."""
        return self._is_resting

    def close(self) -> None:
        """Stop to listen, the last one who does gives the function back; tell what is still on its way."""
        BACKWARDS.release(self)
        if self._record is not None:
            self._tell(self._record, wait=True)

    def touched(self) -> list[str]:
        """What is replaced now."""
        return BACKWARDS.touched(self)

    def called(self, roots: Any, gradients: Any) -> None:
        """`backward()` was called; on the caller's thread. (In a forked child nothing comes of it.)"""
        if gradients is None and not self._is_resting:
            self.guarded(self.name, self._take, roots)

    def _begin(self, *, is_resting: bool) -> None:
        self._calls, self._sum, self._underway = 0, 0.0, []
        if is_resting != self._is_resting:
            self._is_resting = is_resting
            BACKWARDS.pass_over(self, is_resting)

    def _take(self, roots: Any) -> None:
        if is_capturing():
            return
        for root in (roots,) if isinstance(roots, torch.Tensor) else roots:
            # A DTensor's value may be this rank's part of it only, a fake tensor has none.
            if not isinstance(root, torch.Tensor) or root.numel() != 1 or is_dtensor(root):
                continue
            # On other devices the copy home would be waited for; what lies on meta has no value.
            if hasattr(root, "fake_mode") or not (root.is_cpu or root.is_cuda):
                continue
            self._calls += 1
            if root.is_cpu:
                self._sum += root.item()
            elif len(self._underway) < MAX_UNDERWAY:
                self._underway.append(send_home(root))

    def _tell(self, record: Record, *, wait: bool) -> None:
        while self._waiting and (wait or all(part.has_arrived for part in self._waiting[0][-1])):
            step, total, underway = self._waiting.popleft()
            record.scalar(BACKWARD_SCALAR, step, total + sum(part.read() for part in underway))
