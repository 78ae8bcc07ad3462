"""
Steps of which it is known beforehand that nobody looks: counted by the clock's hooks at next to no cost.

A trainer whose steps are short rests at nearly all of them, so what a rest costs is what it pays for us. As long as one
plain optimizer steps alone, all that a rest has to do at once is to see that it is one, to count, and what probes ask
for; the rest of it is done for many steps together (rounds.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import perf_counter
from weakref import ref

from torch.optim import Optimizer

from trainvitals.capture import is_capturing
from trainvitals.progress import Progress
from trainvitals.steppers import has_rate


class Stretch:
    """
    `left`: so many of its steps are still to come; 0: there is none. On the trainer's thread; about 2 us a step. Clock
    and rounds share one: rounds `open` it when a rest has begun, the clock asks it at each hook before anything else.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pid = os.getpid()
        self._of: Callable[[], Optimizer | None] = lambda: None
        self._rests: Sequence[Callable[[int], None]] = ()
        self._by_step: Sequence[Callable[[int, Sequence[Optimizer]], None]] = ()
        self._seconds = 0.0
        self._ends: list[float] = []
        self.left = 0
        self.is_allowed = False
        """The clock has seen one plain optimizer alone."""
        self._is_in_step = False
        self.begun = self.made = 0
        """Steps of all stretches: those that began, and those that ended."""

    def open(
        self,
        optimizer: Optimizer,
        steps: int,
        rests: Sequence[Callable[[int], None]],
        by_step: Sequence[Callable[[int, Sequence[Optimizer]], None]],
    ) -> None:
        """The next steps are rests, in each of which these have something to do (`Probe.rest`, `Probe.rest_step`)."""
        if self.is_allowed:
            self._of, self._rests, self._by_step = ref(optimizer), rests, by_step
            self.left, self._is_in_step = steps, False

    def close(self) -> bool:
        """Nobody counts on it any more, until the clock allows another; whether one of its steps has begun and not ended."""
        is_in_step, self._is_in_step = self._is_in_step, False
        self.left, self.is_allowed = 0, False
        return is_in_step

    @property
    def optimizer(self) -> Optimizer | None:
        """Whose steps it is made of; None if nobody has it any more."""
        return self._of()

    def take(self) -> tuple[list[float], float]:
        """When the steps since this was last asked ended (`perf_counter`), and what we took in them, in seconds."""
        taken = self._ends, self._seconds
        self._ends, self._seconds = [], 0.0
        return taken

    def begins(self, optimizer: Optimizer) -> bool:
        """Before a step: whether it is one of the stretch, and nothing else is to be done."""
        if not self.left or self._of() is not optimizer:
            return False
        started = perf_counter()
        # No step: a fork's, one that is captured, or maybe a phantom (steppers.py).
        if not has_rate(optimizer) or os.getpid() != self._pid or is_capturing():
            return False
        step = self._progress.step + 1
        for rest in self._rests:
            rest(step)
        for rest_step in self._by_step:
            rest_step(step, (optimizer,))
        self.begun += 1
        self._is_in_step = True
        self._seconds += perf_counter() - started
        return True

    def ends(self, optimizer: Optimizer) -> bool:
        """After a step: whether it was one of the stretch; with `left` 0 then, that is over."""
        if not self._is_in_step or self._of() is not optimizer:
            return False
        now = perf_counter()
        self._is_in_step = False
        self.left -= 1
        self.made += 1
        self._progress.step += 1
        self._ends.append(now)
        self._seconds += perf_counter() - now
        return True
