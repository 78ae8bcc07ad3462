"""
How often what is looked at: what the budget buys, said to people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PlannedLook:
    """
    One kind of look at `tensors` tensors, each of which has its turn every so many steps; None: none had one of late.

    `what`: "watched" (all looks at once, at each step that is no rest), or a kind of look.
    """

    what: str
    tensors: int
    every_steps: float | None
    every_seconds: float | None

    def __str__(self) -> str:
        return f"{_PHRASES[self.what].format(self.tensors)} {self._period()}"

    def _period(self) -> str:
        if self.every_steps is None:
            return _NEVER
        if self.every_steps <= 1.0:
            return "every step"
        seconds = "" if self.every_seconds is None else f" ({_duration(self.every_seconds)})"
        return f"every {self.every_steps:.0f} steps{seconds}"


_NEVER = "not of late"
_PHRASES = {
    "watched": "{} watched",
    "identity": "the slots of all {}",
    "cores": "the cores of {}",
    "gradients": "the gradients of {}",
    "sweep": "a full sweep of the {} large ones",
}


@dataclass(frozen=True)
class Plan:
    """
    The kinds of look that are taken of the attached model, and the part of step time that all our work took of late.

    `step_seconds`: a usual step. `spent_share`: 0 to 1, None before the first step.
    """

    looks: Sequence[PlannedLook] = ()
    step_seconds: float | None = None
    spent_share: float | None = None

    def __str__(self) -> str:
        if not self.looks:
            return "no look was taken"
        periods = dict.fromkeys(look._period() for look in self.looks)
        if len(periods) == 1:
            period = next(iter(periods))
            whole = "nothing had its turn of late" if period == _NEVER else f"everything {period}"
            return whole + self._spent()
        return "; ".join(map(str, self.looks)) + self._spent()

    def _spent(self) -> str:
        return "" if self.spent_share is None else f"; {self.spent_share:.2%} of step time taken"

    def every_steps(self) -> Mapping[str, float | None]:
        """By kind of look, steps between two turns of a tensor."""
        return {look.what: look.every_steps for look in self.looks}

    def as_json(self) -> dict[str, Any]:
        """Plain data, and the sentence."""
        return {**asdict(self), "looks": [asdict(look) for look in self.looks], "text": str(self)}


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
