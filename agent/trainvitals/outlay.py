"""
What a round that looks costs beside its looks at tensors, and when the dear parts of that are due.

Walks through the modules and readings of all the optimizers' counters take long where tensors are many, and can't be cut
into smaller ones: they come seldom enough to be paid for, and when there is room for them (window.py).
"""

from __future__ import annotations

import math

WALK_STEPS, MAX_WALK_STEPS = 64, 1024
"""Steps between two walks through the modules: where the checks have credit, and in any case."""
COUNTER_STEPS = (4, 16)
"""Steps between two looks at the optimizers' counters: without a limit, and at least under a budget."""
COUNTER_PART = 0.25
"""Of the share, at most, for the counters, where they are dear; in any case they are read as often as there are walks."""


class Outlay:
    """Prices in seconds, as measured, and the steps at which there was a walk or a reading of counters last."""

    def __init__(self) -> None:
        self.fixed = self.walk = self.counters = math.nan
        self._walked = self._counted = 0

    def did(self, step: int, *, walk: bool, counters: bool) -> None:
        """The look at this step is one of these."""
        self._walked = step if walk else self._walked
        self._counted = step if counters else self._counted

    def is_walk_due(self, step: int, has_credit: bool, room: float) -> bool:
        """At the look of this step, for which there is so much room. `has_credit`: the checks have."""
        since = step - self._walked
        return since >= MAX_WALK_STEPS or (
            since >= WALK_STEPS and has_credit and not self.walk > room
        )

    def are_counters_due(self, step: int, step_income: float, room: float) -> bool:
        """At the look of this step; a step's income pays a part of them."""
        since = step - self._counted
        if since >= MAX_WALK_STEPS:
            return True
        is_paid = not self.counters > since * COUNTER_PART * step_income
        return since >= COUNTER_STEPS[1] and is_paid and not self.counters > room

    def learn(
        self, fixed: float, identity: float, *, walk: bool, counters: bool, is_free: bool
    ) -> None:
        """
        A round that looked is over: its fixed cost, and what the checks of slots took. The first rounds are dearer than
        any later one, so of those that are free the least counts.
        """
        if walk:
            self.walk = _learned(self.walk, identity, is_free)
        if counters:
            beside = 0.0 if is_free else self.fixed  # which is not known apart from them yet
            self.counters = _learned(self.counters, max(0.0, fixed - beside), is_free)
        if is_free or not counters:
            self.fixed = _learned(self.fixed, fixed, is_free)


def _learned(price: float, seconds: float, is_free: bool) -> float:
    """Half of the way down, or a fifth up, and at most to the double: one preempted look proves nothing."""
    if math.isnan(price):
        return seconds
    if is_free:
        return min(price, seconds)
    return price + (0.5 if seconds < price else 0.2) * (min(seconds, 2 * price) - price)
