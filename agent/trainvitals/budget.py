"""
Who may look now, so that the agent's share of step time holds.

Each kind of look has an account (account.py). A step pays `share` of its time into them; what a look took is drawn from
its own. What an account can't hold any more goes back into the next step's income, and so to the kinds that can use it.
Where steps are so short that looking at all costs more than the share, whole rounds rest (rests.py), as they do where the
steps of late have taken all of theirs (window.py): then, with many tensors, looks are smaller.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from trainvitals.account import PLAN_STEPS, Account, open_accounts
from trainvitals.contract import matches
from trainvitals.outlay import COUNTER_STEPS, MAX_WALK_STEPS, Outlay
from trainvitals.plan import Plan, PlannedLook
from trainvitals.probes.probe import Choice
from trainvitals.rests import IN_A_ROW, MAX_AHEAD, RANK_STEPS, Rests
from trainvitals.roles import WATCHED, role_of
from trainvitals.rotation import DIGEST_STEPS, Rotation
from trainvitals.slots import SlotTable
from trainvitals.window import WINDOW_STEPS, Window

FULL_LOOKS = 2
"""The first steps look at everything and cost what it costs: compilation and warm-up hide it, baselines need it."""
START_STEPS = 50
START_SECONDS = 1.0
"""
So do the steps after them, as long as all our work since the start has taken less than this: most faults begin at the
start, and a second, once, is nothing to a training. Of wall time: a busy machine makes of a quarter of it a whole one.
"""
EARNED, ALLOWED = 0.95, 0.97
"""
Of the share: what steps pay in, and what the window allows, for a look may cost more than was expected. Were they equal,
the window would always be full, and who comes first would take what there is.
"""
SPIKE = 4.0
"""A step longer than this many usual ones (an evaluation, a save) pays in as that many."""
CREDIT_STEPS = 8
DEBT_STEPS = WINDOW_STEPS
"""
Bounds of an account, in steps' income: no burst after a pause, no long silence after a stall. A look that by its price
takes more than the debt's is paid in full, for its like would come too often.
"""
DEAR = 2.0
"""A look that takes so many times what it should by its price has met a stall."""


class Budget:
    """
    Chooses what to look at. `share`: of step time, None for everything at every step. `watch`: FQN patterns to look at
    every step whatever it costs, beside the watched roles. On the trainer's thread.
    """

    def __init__(self, share: float | None, watch: Sequence[str] = ()) -> None:
        self._share = share
        self._watch = tuple(watch)
        self._accounts: dict[str, Account] = {
            "identity": Account(0.25, price=2e-6),
            "cores": Account(0.4, price=50e-6),
            "gradients": Account(0.2, price=5e-6),
            "sweep": Account(0.15, price=5e-6, singly=True),
        }
        self._spent: dict[str, float] = dict.fromkeys(self._accounts, 0.0)
        self._left_over = 0.0
        self._usual = math.nan
        self._known = -1
        self._watched: list[int] = []
        self._rotation = Rotation()
        self._choices = 0
        self._at_start = 0.0
        self._rests = Rests()
        self._is_resting = False
        self._income = self._usual_income = 0.0
        self._window = Window(ALLOWED * (share or 0.0))
        self._outlay = Outlay()
        self._walks = self._counts = False
        self._free_until = 0
        self._paces: deque[tuple[float, float]] = deque(maxlen=PLAN_STEPS)

    def choose(self, step: int, slots: SlotTable) -> Choice | None:
        """What to look at in the round that makes step `step` + 1, None if it is a rest. Called once a round."""
        self._choices += 1
        if self._is_free():
            self._learn_slots(slots)
            return self._everything(step, slots)
        is_of_ranks = slots.world_size > 1 and (step + 1) % RANK_STEPS == 0
        is_due = self._rests.is_due() or (self._rests.are_allowed() and self._waiting(step) > 0)
        self._is_resting = is_due and not is_of_ranks
        if self._is_resting:
            return None
        self._learn_slots(slots)
        return self._affordable(step, slots)

    def rests_ahead(self, step: int, slots: SlotTable) -> int:
        """After a rest that made step `step`: so many more will follow, which needn't be asked for (`rested`)."""
        ahead, most = self._rests.ahead(self._step_income), self._rests.most_ahead
        # Where steps are so short that most of them rest, the window needn't be asked.
        if ahead < most:
            ahead = min(max(ahead, self._waiting(step)), most)
        return min(ahead, RANK_STEPS - 1 - step % RANK_STEPS) if slots.world_size > 1 else ahead

    def rested(self, seconds: Sequence[float], agent_seconds: float) -> None:
        """Rests that were announced are over, which took so long each, and all together so much of our time."""
        self._choices += len(seconds)
        self._paces.extend((each, agent_seconds / len(seconds)) for each in seconds)
        self._pay_in(seconds, agent_seconds)

    def spent(self, kind: str, count: int, seconds: float) -> None:
        """What a probe of this kind took to look at `count` tensors."""
        if count:
            self._spent[kind] += seconds

    def step_took(self, seconds: float, agent_seconds: float = 0.0) -> None:
        """
        A step is over that took so long, `agent_seconds` of it for everything we did: pay in, draw out.

        What is spent in any case (hooks, choosing, the optimizer probe, watched tensors) is paid first, or rested off.
        What the rounds of a rest have paid in is there when it is over.
        """
        self._paces.append((seconds, agent_seconds))
        if self._is_resting:
            self._pay_in([seconds], agent_seconds)
            return
        drawn = {
            kind: seconds * self._accounts[kind].drawn for kind, seconds in self._spent.items()
        }
        fixed = max(agent_seconds, sum(self._spent.values())) - sum(drawn.values())
        is_free = self._is_free()
        walk, counters = self._walks, self._counts
        self._outlay.learn(
            fixed, self._spent["identity"], walk=walk, counters=counters, is_free=is_free
        )
        spent, self._spent = self._spent, dict.fromkeys(self._accounts, 0.0)
        for kind, account in self._accounts.items():
            if spent[kind] and account.chosen_units:
                account.learn(spent[kind], is_free=is_free)
        if is_free:
            self._usual = seconds
            self._at_start += agent_seconds
            self._free_until = self._choices
            if self._share is not None:  # what is free is no part of the share
                self._paces.clear()
                self._window.clear()
            return
        self._pay_in([seconds], fixed, sum(drawn.values()))
        self._draw(drawn)
        self._credit(self._income, self._usual_income)
        self._income = self._usual_income = 0.0

    def plan(self) -> Plan:
        """How often each kind of tensor is looked at, as of late. Any thread; 0.1 ms."""
        since, now, paces = self._free_until, self._choices, list(self._paces)
        is_free = self._share is None or since == now
        usual = None if math.isnan(self._usual) else self._usual
        looks = {"watched": (len(self._watched), self._steps_a_look(since, now))}
        for kind, account in self._accounts.items():
            looks[kind] = (len(account.ring), account.period(since, now))
        planned = [
            PlannedLook(
                what, count, steps, None if steps is None or usual is None else steps * usual
            )
            for what, (count, every) in looks.items()
            if count
            for steps in [1.0 if is_free else every]
        ]
        seconds = sum(step for step, _ in paces)
        spent = sum(ours for _, ours in paces) / seconds if seconds else None
        return Plan(planned, usual, spent)

    def _steps_a_look(self, since: int, now: int) -> float | None:
        first = max(since, now - PLAN_STEPS) + 1
        looks = sum(looked >= first for looked, _ in list(self._accounts["identity"].turns))
        return round((now - first + 1) / looks, 1) if looks else None

    def _is_free(self) -> bool:
        if self._share is None or self._choices <= FULL_LOOKS:
            return True
        return self._choices <= START_STEPS and self._at_start < START_SECONDS

    @property
    def _step_income(self) -> float:
        return EARNED * (self._share or 0.0) * self._usual

    def _waiting(self, step: int) -> int:
        """So many steps until those of late leave what the rounds take that are looked at next."""
        window, outlay, usual = self._window, self._outlay, self._usual
        most = self._step_income * WINDOW_STEPS
        needed = IN_A_ROW * outlay.fixed
        if outlay.is_walk_due(step + 1, self._accounts["identity"].balance > 0, most):
            needed += outlay.walk
        if outlay.are_counters_due(step + 1, self._step_income, most):
            needed += outlay.counters
        return window.wait(min(needed, most), usual, MAX_AHEAD)

    def _pay_in(self, rounds: Sequence[float], fixed: float, drawn: float = 0.0) -> None:
        """The income of a round, or of rests, less its fixed cost; of a pause (a save) what is beyond a spike pays what we did in it."""
        share, usual = EARNED * (self._share or 1.0), self._usual
        paid = []
        for seconds in rounds:
            counts = min(seconds, SPIKE * usual)
            usual += (0.5 if seconds < usual else 0.05) * (counts - usual)
            paid.append(counts)
            self._usual_income += share * usual
        self._usual = usual
        fixed = max(0.0, fixed - share * (sum(rounds) - sum(paid)))
        for counts in paid:
            self._window.passed(counts, (fixed + drawn) / len(paid))
        rests = len(rounds) if self._is_resting else 0
        self._income += self._rests.settle(rests, share * sum(paid), share * usual, fixed)

    def _draw(self, drawn: dict[str, float]) -> None:
        """What the looks took, as far as it is theirs; of a walk, which has no price, what pays until the next."""
        step_income = self._step_income
        for kind, account in self._accounts.items():
            priced = DEAR * account.chosen_units * account.price
            steps = DEBT_STEPS if account.chosen_units else MAX_WALK_STEPS
            account.balance -= min(drawn[kind], max(priced, steps * account.share * step_income))

    def _credit(self, income: float, usual_income: float) -> None:
        income += self._left_over
        self._left_over = 0.0
        for account in self._accounts.values():
            account.balance += account.share * income
            left_over = max(0.0, account.balance - CREDIT_STEPS * account.share * usual_income)
            account.balance -= left_over
            self._left_over += left_over
        self._left_over = min(self._left_over, CREDIT_STEPS * usual_income)

    def _everything(self, step: int, slots: SlotTable) -> Choice:
        everyone = {
            kind: account.take_all(self._choices) for kind, account in self._accounts.items()
        }
        digests: Sequence[int] = ()
        if self._choices == 1 or (step + 1) % DIGEST_STEPS == 0:
            digests = everyone["cores"]
        elif slots.world_size > 1:
            digests = self._rotation.every_step(step + 1)
        self._walks = True
        self._counts = self._choices <= 3 or (step + 1) % COUNTER_STEPS[0] == 0
        self._outlay.did(step + 1, walk=True, counters=True)
        return Choice(**everyone, digests=digests, walk=True, counters=self._counts)

    def _affordable(self, step: int, slots: SlotTable) -> Choice:
        accounts, income, now = self._accounts, self._step_income, self._choices
        digests = self._rotation.now_and_then(step + 1) if slots.world_size > 1 else []
        gradients = [index for index in self._watched if index in accounts["gradients"].units]
        checks, outlay = accounts["identity"], self._outlay
        room = self._window.left(self._usual) - outlay.fixed
        self._walks = walk = outlay.is_walk_due(step + 1, checks.balance > 0, room)
        room -= outlay.walk if walk else 0.0
        counts = now <= 3 or outlay.are_counters_due(step + 1, income, room)
        room -= outlay.counters if counts else 0.0
        self._counts = counts
        outlay.did(step + 1, walk=walk, counters=counts)

        def take(kind: str, always: Sequence[int]) -> Sequence[int]:
            nonlocal room
            account = accounts[kind]
            taken = account.take(now, always, income, room)
            room -= account.drawn * account.chosen_units * account.price
            return taken

        identity = checks.take_all(now) if walk else take("identity", self._watched)
        if walk:
            checks.chosen_units = 0.0  # dearer than a check: it must not teach the price of one
        return Choice(
            identity=identity,
            cores=take("cores", [*self._watched, *digests]),
            sweep=take("sweep", ()),
            gradients=take("gradients", gradients),
            digests=digests,
            walk=walk,
            counters=counts,
        )

    def _learn_slots(self, slots: SlotTable) -> None:
        """Who can be looked at how: made anew when slots are added, or hold other objects."""
        if self._known == slots.version:
            return
        self._known = slots.version
        self._watched = [
            index
            for index in range(len(slots))
            if role_of(slots.fqn(index)) in WATCHED or matches(slots.fqn(index), self._watch)
        ]
        self._rotation.open(slots, self._watched)
        open_accounts(self._accounts, slots)
