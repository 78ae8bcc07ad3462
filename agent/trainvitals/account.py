"""
An account of the budget: one kind of look, who is due, what it costs, and what it may spend.

In credit it looks at the next tensors of its ring, as many as the credit buys at the measured price, but an eighth of a
lap at least: what that costs beyond the credit is carried as debt, and its kind pauses until it is paid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

PLAN_STEPS = 256
"""The plan is told from so many steps."""
BUNDLES = 8
"""A look that is not free takes at least this part of a lap, and its kind rests for it afterwards."""


@dataclass
class Account:
    """One kind of look: who is due, what it costs, what it may spend. A unit is a thousand elements or a tensor."""

    share: float
    price: float
    """Seconds per unit, as measured; at the start a guess, too high rather than too low."""
    singly: bool = False
    """One at a time, else in bundles: each look has a cost of its own, however few tensors it is about."""
    ring: Sequence[int] = ()
    units: dict[int, float] = field(default_factory=dict)
    everyone: Sequence[int] = ()
    all_units: float = 0.0
    balance: float = 0.0
    position: int = 0
    chosen_units: float = 0.0
    drawn: float = 1.0
    """The part of the chosen that the account pays; the rest is looked at in any case."""
    turns: deque[tuple[int, int]] = field(default_factory=deque)
    """Of the last PLAN_STEPS rounds, which looked, and at how many of the ring."""

    def open(self, ring: Sequence[int], units: dict[int, float]) -> None:
        """Who takes turns, in which order, at how many units."""
        self.ring, self.units = ring, units
        self.everyone, self.all_units = sorted(ring), sum(units.values())

    def take_all(self, now: int) -> Sequence[int]:
        """Everyone in round `now`, whatever it costs."""
        self.chosen_units, self.drawn = self.all_units, 1.0
        self._had_turns(now, len(self.ring))
        return self.everyone

    def take(self, now: int, always: Sequence[int]) -> Sequence[int]:
        """`always`, and the next of the ring as long as there is credit; each at most once."""
        if self.balance >= self.all_units * self.price:
            return self.take_all(now)
        taken = dict.fromkeys(always)
        always_units = sum(self.units.get(index, 1.0) for index in taken)
        begun, left = self.position, self.balance
        self.chosen_units = always_units
        bundle = 0 if left <= 0 else 1 if self.singly else -(-len(self.ring) // BUNDLES)
        for turn in range(len(self.ring)):
            if left <= 0 and turn >= bundle:
                break
            index = self.ring[self.position % len(self.ring)]
            self.position += 1
            if index not in taken:
                taken[index] = None
                self.chosen_units += self.units[index]
                left -= self.units[index] * self.price
        self.drawn = 1.0 - always_units / self.chosen_units if self.chosen_units else 0.0
        self._had_turns(now, self.position - begun)
        return sorted(taken)

    def period(self, since: int, now: int) -> float | None:
        """Rounds between two turns of one of the ring, of late but not before round `since`; None if none had one."""
        first = max(since, now - PLAN_STEPS) + 1
        had = sum(count for looked, count in list(self.turns) if looked >= first)
        return round(len(self.ring) * (now - first + 1) / had, 1) if had else None

    def _had_turns(self, now: int, count: int) -> None:
        self.turns.append((now, count))
        while self.turns[0][0] <= now - PLAN_STEPS:
            self.turns.popleft()

    def learn(self, seconds: float) -> None:
        """The price moves a fifth of the way, and at most to the double: one preempted look proves nothing."""
        price = min(seconds / self.chosen_units, 2 * self.price)
        self.price += 0.2 * (price - self.price)
