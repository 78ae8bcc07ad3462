"""
How far the run has come, in our steps and in the trainer's.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import SupportsIndex

from trainvitals.frame import Phase

_TOO_LARGE = 2**53
"""Readers of JSON may hold numbers as doubles; no training comes so far."""


@dataclass
class Progress:
    """
    `base`: steps done at attach; `step`: steps done now. `complete_through`: every fact up to this step has been
    recorded. `offset`: the trainer's own step number minus ours, None while unknown.

    Written on the trainer's thread; the sender's thread reads single fields.
    """

    base: int
    step: int
    complete_through: int
    offset: int | None = None
    phase: Phase = "starting"

    @classmethod
    def at(cls, base: int) -> Progress:
        """A run that starts, or goes on, after `base` steps."""
        return cls(base=base, step=base, complete_through=base)

    def tell(self, theirs: SupportsIndex, ours: int) -> None:
        """The trainer calls our step `ours` its step `theirs`. Raises TypeError or ValueError for what is no step number."""
        number = operator.index(theirs)
        if abs(number) >= _TOO_LARGE:
            raise ValueError(f"log(step={number}): a step number is needed, below 2**53")
        self.offset = number - ours

    def complete(self, through: int) -> None:
        """Nothing more will be recorded about the steps up to this one."""
        self.complete_through = max(self.complete_through, through)
