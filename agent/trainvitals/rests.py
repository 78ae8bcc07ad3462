"""
Rounds in which nothing is looked at, for trainers whose steps are so short that looking at all costs too much.

A round that looks has a cost of its own, whatever it looks at: choosing, asking each probe, watched tensors. Half of
the share is for that. What it costs beyond is carried as debt, and rounds rest until it is paid; then two are looked
at in a row, for some facts take two neighbouring steps.
"""

from __future__ import annotations

import math

FIXED_PART = 0.5
MAX_RESTS = 256
"""
Rests in a row: so short steps that the share can't be kept even so are looked at this often in any case. So no debt is
larger than so many steps' income.
"""
RANK_STEPS = 64
"""With several ranks no rank rests at these steps, so that all of them have looks to compare."""
IN_A_ROW = 2
LEAST_LEFT = 0.25
"""Where rests alone take more than the fixed part, they take it from looks; these keep such a part of theirs."""
MAX_AHEAD = 16
"""Rests that are promised beforehand: when steps become longer, so many too many."""


class Rests:
    """Whether the next round is a rest; `settle` once per round, of which kind it was."""

    def __init__(self) -> None:
        self._debt = 0.0
        self._rested = 0
        self._looked = 0

    def is_due(self) -> bool:
        """The next round is a rest, for there is a debt."""
        return self._debt > 0 and self.are_allowed()

    def are_allowed(self) -> bool:
        """Neither were there too many of them, nor is the next round to be looked at because the last one was."""
        return self._rested < MAX_RESTS and not 0 < self._looked < IN_A_ROW

    @property
    def most_ahead(self) -> int:
        """So many of the next rounds may be promised to be rests."""
        return min(MAX_AHEAD, MAX_RESTS - self._rested) if self.are_allowed() else 0

    def ahead(self, usual_income: float) -> int:
        """So many of the next rounds will be rests for the debt, if steps go on as usual."""
        a_step, most = FIXED_PART * usual_income, self.most_ahead
        return math.ceil(self._debt / a_step) if self._debt < most * a_step else most

    def settle(self, rested: int, income: float, usual_income: float, fixed: float) -> float:
        """
        A round is over that had a fixed cost (seconds), or `rested` rests are: what of their income is left for looks.

        `usual_income`: of one step.
        """
        self._rested, self._looked = (self._rested + rested, 0) if rested else (0, self._looked + 1)
        self._debt += fixed - FIXED_PART * income
        left_over = max(0.0, -self._debt)
        beyond = max(0.0, self._debt - MAX_RESTS * FIXED_PART * usual_income)
        self._debt = max(self._debt, 0.0) - beyond
        of_looks = (1.0 - FIXED_PART) * income
        return max(of_looks - beyond, LEAST_LEFT * of_looks) + left_over
