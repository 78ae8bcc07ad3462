"""
An account of the budget: one kind of look, who is due, what it costs, and what it may spend.

In credit it looks at the next tensors of its ring, as many as the credit buys at the measured price, but a bundle at
least: what that costs beyond the credit is carried as debt, and its kind pauses until it is paid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainvitals.rests import MAX_RESTS
from trainvitals.slots import SlotTable

PLAN_STEPS = 256
"""The plan is told from so many steps."""
BUNDLES = 8
"""A bundle is this part of a lap, for each look has a cost of its own."""
BUNDLE_STEPS = 32
"""
But of many tensors a look takes no more on debt than its part of what so many steps pay, or of what the steps of late
have left (window.py). One tensor can't be split.
"""


@dataclass
class Account:
    """One kind of look: who is due, what it costs, what it may spend. A unit is a thousand elements or a tensor."""

    share: float
    price: float
    """Seconds per unit, as measured; at the start a guess."""
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
    is_measured: bool = False
    last_turn: int = 0
    """The round in which one of the ring was looked at last."""
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

    def take(
        self, now: int, always: Sequence[int], step_income: float, room: float
    ) -> Sequence[int]:
        """
        `always`, and the next of the ring as long as there is credit; each at most once. `step_income`: of all accounts.
        `room`: seconds that they may take now, whatever their credit; a kind that had no turn for as long as rests may last
        has its part of a bundle's in any case, for where the share can't be kept there never is room.
        """
        if now - self.last_turn >= MAX_RESTS:
            room = max(room, self.share * BUNDLE_STEPS * step_income)
        if min(self.balance, room) >= self.all_units * self.price:
            return self.take_all(now)
        taken = dict.fromkeys(always)
        always_units = sum(self.units.get(index, 1.0) for index in taken)
        begun, credit = self.position, self.balance
        self.chosen_units = always_units
        bundle = 1 if self.singly else -(-len(self.ring) // BUNDLES)
        debt = self.share * max(BUNDLE_STEPS * step_income, room)
        spent = 0.0
        may_look = credit > 0 and (room > 0 or self.singly)
        for turn in range(len(self.ring) if may_look else 0):
            index = self.ring[self.position % len(self.ring)]
            cost = 0.0 if index in taken else self.units[index] * self.price
            is_bought = spent < credit or (turn < bundle and spent + cost <= credit + debt)
            if turn and not (is_bought and spent + cost <= room):
                break
            self.position += 1
            if index not in taken:
                taken[index] = None
                self.chosen_units += self.units[index]
                spent += cost
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
        if count:
            self.last_turn = now
        while self.turns[0][0] <= now - PLAN_STEPS:
            self.turns.popleft()

    def learn(self, seconds: float, *, is_free: bool) -> None:
        """
        The price moves a fifth of the way, and at most to the double: one preempted look proves nothing. A model may be so
        large that two looks are free: of those the cheapest counts, for the first is dearer than any later one.
        """
        measured = seconds / self.chosen_units
        if is_free:
            self.price = min(self.price, measured) if self.is_measured else measured
            self.is_measured = True
            return
        self.price += 0.2 * (min(measured, 2 * self.price) - self.price)


def open_accounts(accounts: Mapping[str, Account], slots: SlotTable) -> None:
    """Which tensors take turns in each kind of look."""
    count = len(slots)
    thousands = [slots.layout(index).local_numel / 1024 for index in range(count)]
    plans = [slots.plan(index) for index in range(count)]
    firsts = [index for index in range(count) if slots.tied_to(index) < 0]
    large = [index for index in firsts if not plans[index].is_whole and plans[index].count]
    params = [index for index in firsts if slots.slots[index].place.kind == "param"]
    # Buffers before parameters, small before large: each lap begins with what nobody else looks at.
    order = sorted(range(count), key=lambda i: (slots.slots[i].place.kind, thousands[i] > 4, i))
    accounts["identity"].open(range(count), dict.fromkeys(range(count), 1.0))
    accounts["cores"].open(order, {i: 1 + plans[i].count / 1024 for i in order})
    accounts["gradients"].open(params, {i: 1 + thousands[i] for i in params})
    accounts["sweep"].open(large, {i: 1 + thousands[i] for i in large})
