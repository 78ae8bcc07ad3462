"""The budget against a simulated trainer: looks cost what the simulation says, and the share must hold."""

from __future__ import annotations

import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trainvitals.budget import START_SECONDS, START_STEPS, Budget
from trainvitals.outlay import COUNTER_STEPS, WALK_STEPS
from trainvitals.probes.probe import Choice
from trainvitals.rests import IN_A_ROW, RANK_STEPS
from trainvitals.slots import SlotTable

KINDS = ("identity", "cores", "sweep", "gradients")


class Trainer:
    """
    A trainer whose steps take `step_seconds`, and probes that cost so much a look, or a thousand elements. A round that
    looks costs `fixed` besides, one that rests a fiftieth of that. `choices` has an empty one for each rest. Rests that the
    budget announces are told of together, as they are over.
    """

    def __init__(
        self,
        slots: SlotTable,
        budget: Budget,
        step_seconds: float,
        slow: float = 1.0,
        fixed: float = 2e-6,
    ) -> None:
        self.slots, self.budget, self.step_seconds = slots, budget, step_seconds
        self.slow, self.fixed = slow, fixed
        self.step = 0
        self.agent_seconds: list[float] = []
        self.choices: list[Choice] = []
        self.rests: list[bool] = []
        self.whole: list[float] = []
        self.ahead = 0
        self.rested: list[float] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.ahead:
                self._rest()
                continue
            choice = self.budget.choose(self.step, self.slots)
            self.rests.append(choice is None)
            looked = choice or Choice()
            costs = {kind: self._cost(kind, looked) for kind in KINDS}
            for kind, seconds in costs.items():
                self.budget.spent(kind, len(getattr(looked, kind)), seconds)
            self.whole.append(self._whole(looked, costs))
            ours = sum(costs.values()) + self.fixed * (0.02 if choice is None else 1)
            ours += 0.8e-6 * len(self.slots) if looked.counters else 0.0
            self.step += 1
            self.agent_seconds.append(ours)
            self.choices.append(looked)
            self.budget.step_took(self.step_seconds + ours, ours)
            if choice is None:
                self.ahead = self.budget.rests_ahead(self.step, self.slots)

    def _rest(self) -> None:
        ours = 0.02 * self.fixed
        self.step, self.ahead = self.step + 1, self.ahead - 1
        self.rests.append(True)
        self.choices.append(Choice())
        self.whole.append(0.0)
        self.agent_seconds.append(ours)
        self.rested.append(self.step_seconds + ours)
        if not self.ahead:
            self.budget.rested(self.rested, ours * len(self.rested))
            self.rested = []
            self.ahead = self.budget.rests_ahead(self.step, self.slots)

    def share(self, last: int) -> float:
        ours = sum(self.agent_seconds[-last:])
        return ours / (last * self.step_seconds + ours)

    def ages(self, kind: str, last: int) -> dict[int, int]:
        """Per tensor: steps since its last look of this kind; `last` if it had none."""
        found: dict[int, int] = {}
        for age, choice in enumerate(reversed(self.choices[-last:])):
            for index in getattr(choice, kind):
                found.setdefault(index, age)
        return found

    def _whole(self, choice: Choice, costs: dict[str, float]) -> float:
        """What of a look can't be split: a walk, and the sweep of one tensor."""
        return costs["identity"] * choice.walk + costs["sweep"] * (len(choice.sweep) == 1)

    def _cost(self, kind: str, choice: Choice) -> float:
        thousands = [self.slots.layout(index).local_numel / 1024 for index in getattr(choice, kind)]
        if not thousands:
            return 0.0
        if kind == "identity":
            cost = 5e-6 + 0.5e-6 * len(thousands)
        elif kind == "cores":
            cost = 100e-6 + sum(20e-6 + 5e-6 * min(each, 4) for each in thousands)
        else:
            cost = 50e-6 + sum(2e-6 + 0.5e-6 * each for each in thousands)
        walk = 6e-6 * len(self.slots) if kind == "identity" and choice.walk else 0.0
        return (cost + walk) * self.slow


def model() -> nn.Sequential:
    """Sixty layers, some large, and one of 4 million elements."""
    layers = nn.Sequential(*(nn.Linear(64, 16 + 200 * (k % 7 == 0)) for k in range(60)))
    return layers.append(nn.Linear(2048, 2048, bias=False))


@pytest.fixture(scope="module")
def slots() -> SlotTable:
    """The model with two expert biases, which are watched."""
    made = model()
    for k in (3, 30):
        made[k].register_buffer("expert_bias", torch.zeros(4))
    return SlotTable([made])


@pytest.mark.parametrize("share", [0.002, 0.005, 0.02])
@pytest.mark.parametrize("step_seconds", [0.05, 1.0])
def test_the_share_of_step_time_holds(share: float, step_seconds: float) -> None:
    """Over a thousand steps the looks cost no more than the share, and most of it is used if there is use for it."""
    trainer = Trainer(SlotTable([model()]), Budget(share), step_seconds)
    trainer.run(1200)
    everything = sum(trainer.agent_seconds[:1]) / step_seconds
    used = trainer.share(1000)
    assert used <= share * 1.05  # a window may begin or end with a dear sweep half paid
    assert used >= 0.8 * min(share, everything)


def test_everything_is_looked_at_every_step_without_a_limit(slots: SlotTable) -> None:
    """budget=None: every slot, every core, every large tensor swept, every gradient, at every step."""
    trainer = Trainer(slots, Budget(None), 0.001, slow=1000)
    trainer.run(50)
    large = [i for i in range(len(slots)) if slots.layout(i).numel > 4096]
    for choice in trainer.choices:
        assert list(choice.identity) == list(choice.cores) == list(range(len(slots)))
        assert list(choice.sweep) == large
        assert len(choice.gradients) == sum(
            slots.info(i).kind == "param" for i in range(len(slots))
        )
        assert choice.walk
    assert [n for n, choice in enumerate(trainer.choices, 1) if choice.counters][:5] == [
        1,
        2,
        3,
        4,
        8,
    ]
    assert str(trainer.budget.plan()).startswith("everything every step; ")


def test_watched_tensors_are_looked_at_whenever_anything_is(slots: SlotTable) -> None:
    """Expert biases, and what the user watches, come first; where they cost more than the share, rounds rest."""
    budget = Budget(0.001, watch=["7.*"])
    trainer = Trainer(slots, budget, 0.02)
    trainer.run(1200)
    names = ("3.expert_bias", "30.expert_bias", "7.weight", "7.bias")
    watched = {i for i in range(len(slots)) if slots.fqn(i) in names}
    assert len(watched) == 4
    for choice, rested in zip(trainer.choices, trainer.rests, strict=True):
        assert rested or watched <= set(choice.identity)
        assert rested or watched <= set(choice.cores)
    assert any(len(choice.cores) == 4 for choice in trainer.choices)
    assert trainer.share(1000) <= 0.0011


def test_every_tensor_has_its_turn(slots: SlotTable) -> None:
    """Under a tight budget each slot, core, gradient and large tensor still comes by; the plan says how often."""
    trainer = Trainer(slots, Budget(0.005), 0.05)
    trainer.run(1500)
    while (
        trainer.budget._accounts["sweep"].balance <= 0
    ):  # right after a dear one, that is the oldest
        trainer.run(1)
    large = {i for i in range(len(slots)) if slots.layout(i).numel > 4096}
    assert set(trainer.ages("identity", 100)) == set(range(len(slots)))
    assert set(trainer.ages("cores", 200)) == set(range(len(slots)))
    assert set(trainer.ages("sweep", 600)) == large
    for kind in ("identity", "cores", "sweep"):
        period = trainer.budget.plan().every_steps()[kind]
        assert period is not None
        oldest = max(trainer.ages(kind, 600).values())
        assert 1 < period < 600
        assert (
            period / 2 - 8 < oldest < 2 * period + 32
        )  # a walk, or a dear sweep, is paid off first


def test_one_dear_look_is_paid_off_before_the_next() -> None:
    """A sweep of many steps' income is taken, carried as debt, and not repeated before it is paid."""
    slots = SlotTable([nn.Linear(2048, 2048, bias=False)])
    trainer = Trainer(slots, Budget(0.005), 0.02)
    trainer.run(1200)
    sweeps = [n for n, choice in enumerate(trainer.choices) if choice.sweep and n >= START_STEPS]
    assert len(sweeps) > 3
    gaps = [b - a for a, b in pairwise(sweeps)]
    assert min(gaps) > 20
    assert trainer.share(1000) <= 0.0055


def test_a_pause_does_not_buy_a_burst(slots: SlotTable) -> None:
    """After an evaluation of a thousand steps' time the next steps cost hardly more than before."""
    trainer = Trainer(slots, Budget(0.005), 0.05)
    trainer.run(300)
    trainer.step_seconds = 50.0
    trainer.run(1)
    trainer.step_seconds = 0.05
    trainer.run(20)
    assert sum(trainer.agent_seconds[-20:]) < 0.005 * 0.05 * (20 + 40)


@pytest.mark.parametrize(("step_seconds", "fixed"), [(0.05, 2e-6), (0.02, 500e-6)])
def test_a_stalled_look_does_not_silence_for_long(step_seconds: float, fixed: float) -> None:
    """
    A machine that slept for an hour inside a probe is forgiven after the steps over which the share holds, also where
    rounds rest: its debt was larger than any that its like leaves.
    """
    budget = Budget(0.005)
    trainer = Trainer(SlotTable([model()]), budget, step_seconds, fixed=fixed)
    trainer.run(600)
    usual = trainer.budget.plan().every_steps()["cores"]
    assert usual is not None
    while trainer.ahead or not trainer.choices[-1].cores:
        trainer.run(1)
    budget.choose(trainer.step, trainer.slots)
    budget.spent("cores", 1, 3600.0)
    budget.step_took(3600.0, 3600.0)
    trainer.run(300)  # the debt's steps, and those of the fixed part's
    trainer.run(300)
    assert set(trainer.ages("cores", max(300, int(2 * usual)))) == set(range(len(trainer.slots)))


def test_rests_told_of_together_are_those_told_of_one_by_one() -> None:
    """The same looks at the same steps: only what steps of another length would change is known later."""
    together = Trainer(SlotTable([model()]), Budget(0.005), 0.01, fixed=500e-6)
    single = Trainer(SlotTable([model()]), Budget(0.005), 0.01, fixed=500e-6)
    single.budget.rests_ahead = lambda *_: 0  # type: ignore[method-assign]
    for trainer in (together, single):
        trainer.run(1000)
    assert together.rests == single.rests
    assert together.choices == single.choices


def test_dear_looks_are_no_stalls() -> None:
    """One tensor of 100 million elements, at steps that pay for its sweep in thousands: debt, and not forgiven."""
    slots: Any = Uniform(1, 100_000_000)
    trainer = Trainer(slots, Budget(0.005), 0.05)
    trainer.run(20_000)
    assert sum(bool(choice.sweep) for choice in trainer.choices[START_STEPS:]) >= 2
    assert trainer.share(19_000) < 0.0055


def test_walks_and_counters_are_rare(slots: SlotTable) -> None:
    """After the start they come at the first look after so many steps that can afford them."""
    trainer = Trainer(slots, Budget(0.005), 0.05)
    trainer.run(40 * WALK_STEPS)
    for flag, period in (("walk", WALK_STEPS), ("counters", COUNTER_STEPS[1])):
        found = [n for n, choice in enumerate(trainer.choices, 1) if getattr(choice, flag)]
        gaps = [b - a for a, b in pairwise(found) if a > START_STEPS]
        assert period <= min(gaps)
        assert max(gaps) < 8 * period


def test_ranks_digest_the_same_tensors_at_the_same_steps() -> None:
    """Whatever their budgets buy, two ranks' digests can be compared; in time every tensor has had its turn."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(100)))
    slots = SlotTable([model], world_size=2)
    fast, slow = Trainer(slots, Budget(0.005), 0.05), Trainer(slots, Budget(0.005), 0.05, slow=20)
    for trainer in (fast, slow):
        trainer.run(10 * RANK_STEPS)
    for n in range(RANK_STEPS, 10 * RANK_STEPS + 1, RANK_STEPS):
        digests = list(fast.choices[n - 1].digests)
        assert digests
        assert digests == list(slow.choices[n - 1].digests)
    assert {index for choice in slow.choices for index in choice.digests} == set(range(200))
    for choice in slow.choices:
        assert set(choice.digests) <= set(choice.cores)


@pytest.mark.parametrize("step_seconds", [0.005, 0.02, 0.05])
def test_short_steps_rest_and_keep_the_share(step_seconds: float) -> None:
    """Looking at all costs 0.5 ms: rounds rest until that is paid, and each slot and core has its turn in time."""
    trainer = Trainer(SlotTable([model()]), Budget(0.005), step_seconds, fixed=500e-6)
    trainer.run(6000)
    everyone = set(range(len(trainer.slots)))
    assert set(trainer.ages("identity", 5000)) == everyone
    assert set(trainer.ages("cores", 5000)) == everyone
    assert trainer.share(4000) < 0.0055
    looked = [n for n, rested in enumerate(trainer.rests) if not rested and n > START_STEPS]
    assert sum(n + 1 in looked for n in looked) >= len(looked) // 2 - 1  # two in a row


def test_no_step_is_too_short_to_be_looked_at_now_and_then() -> None:
    """Steps of 0.1 ms: the share can't be kept, and a look comes by all the same."""
    trainer = Trainer(SlotTable([nn.Linear(4, 4)]), Budget(0.005), 1e-4, fixed=500e-6)
    trainer.run(2000)
    assert 6 <= 1950 - sum(trainer.rests[50:]) <= 40
    trainer = Trainer(SlotTable([nn.Linear(4, 4)]), Budget(0.005), 2e-3, fixed=3e-3)
    trainer.run(3000)
    assert any(choice.cores for choice in trainer.choices[1000:])


def test_ranks_that_only_look_together_see_every_tensor() -> None:
    """
    Steps so short that only those remain which no rank rests at, and there is room for nothing there: each kind of look has
    its turns all the same, and the digests that all ranks have are of every tensor in time.
    """
    slots: Any = Uniform(256, 4096)
    slots.world_size = 2
    trainer = Trainer(slots, Budget(0.005), 0.005, fixed=600e-6)
    trainer.run(12_000)
    looked = [n for n, rested in enumerate(trainer.rests, 1) if not rested and n > START_STEPS]
    assert all(n % RANK_STEPS <= 1 for n in looked[IN_A_ROW:])
    everyone = set(range(len(slots)))
    for kind in ("identity", "cores", "gradients", "digests"):
        assert set(trainer.ages(kind, 11_000)) == everyone, kind


def test_the_start_is_looked_at_in_full() -> None:
    """Small models for fifty steps, large ones for a second of our work."""
    small = Trainer(SlotTable([nn.Linear(4, 4)]), Budget(0.005), 0.002)
    small.run(START_STEPS + 10)
    assert all(len(choice.cores) == 2 for choice in small.choices[:START_STEPS])
    large = Trainer(SlotTable([model()]), Budget(0.005), 0.05, slow=20)
    large.run(START_STEPS)
    everyone = len(large.slots)
    first = next(n for n, choice in enumerate(large.choices) if len(choice.cores) < everyone)
    assert 2 <= first < 10
    assert sum(large.agent_seconds[: first - 1]) < START_SECONDS


def test_the_plan_leaves_out_what_there_is_none_of() -> None:
    """A model without large tensors is never swept."""
    trainer = Trainer(SlotTable([nn.Linear(4, 4)]), Budget(0.005), 1.0)
    trainer.run(300)
    plan = trainer.budget.plan()
    assert plan.every_steps() == {"identity": 1.0, "cores": 1.0, "gradients": 1.0}


def test_the_plan_says_that_nothing_had_its_turn() -> None:
    """Steps so short that looks come once in more steps than it is told from."""
    trainer = Trainer(SlotTable([nn.Linear(4, 4)]), Budget(0.005), 1e-6, fixed=1.0)
    trainer.run(START_STEPS + 2)
    while not all(trainer.rests[-256:]):
        trainer.run(1)
    assert str(trainer.budget.plan()).startswith("nothing had its turn of late; ")


def test_the_plan_reads_well(slots: SlotTable) -> None:
    """For the attached model: each kind of tensor, in steps and seconds, and what all of it took."""
    trainer = Trainer(slots, Budget(0.005), 0.02)
    trainer.run(600)
    while trainer.ahead:  # rests that are told of together
        trainer.run(1)
    plan = trainer.budget.plan()
    assert plan.step_seconds == pytest.approx(0.02, rel=0.1)
    assert plan.spent_share == pytest.approx(trainer.share(256), abs=1e-4)
    for look in plan.looks:
        assert look.every_steps
        assert look.every_seconds == pytest.approx(look.every_steps * 0.02, rel=0.1)
    words = str(plan)
    numbers = r"every (step|\d+ steps \([\d.]+ (s|min)\))"
    assert re.match(
        rf"2 watched {numbers}; the slots of all 123 {numbers}; the cores of 123 {numbers}; "
        rf"the gradients of 121 {numbers}; a full sweep of the 10 large ones {numbers}; 0\.\d\d% of step time taken$",
        words,
    ), words


class Uniform:
    """`count` slots of one size, as far as a budget asks: thousands of real ones would take longer than the tests."""

    def __init__(self, count: int, numel: int) -> None:
        self.version, self.world_size, self._count = 1, 1, count
        self._layout = SimpleNamespace(local_numel=numel)
        self._plan = SimpleNamespace(is_whole=numel <= 4096, count=min(numel, 4096))
        self.slots = [SimpleNamespace(place=SimpleNamespace(kind="param"))] * count

    def __len__(self) -> int:
        return self._count

    def fqn(self, index: int) -> str:
        return f"layers.{index}.weight"

    def layout(self, index: int) -> SimpleNamespace:
        return self._layout

    def plan(self, index: int) -> SimpleNamespace:
        return self._plan

    def tied_to(self, index: int) -> int:
        return -1


def steady(seconds: float) -> list[float]:
    """Equal steps."""
    return [seconds] * 450


@pytest.mark.parametrize("fixed", [100e-6, 600e-6])
@pytest.mark.parametrize(
    ("count", "numel", "steps"),
    [
        (150, 50_000, steady(0.005)),
        (150, 50_000, steady(0.05)),
        (150, 50_000, steady(1.0)),
        (150, 50_000, steady(60.0)),
        (20_000, 64, [0.093] * 1500),
        (20_000, 64, steady(0.5)),
        (20_000, 5_000, steady(5.0)),
        (150, 50_000, [0.05] * 300 + [0.5] * 400),
        (150, 50_000, [0.5] * 300 + [0.05] * 400),
        (150, 50_000, [0.1] * 300 + [300.0] + [0.1] * 400),
        (150, 50_000, [0.1, 0.02, 0.3, 0.05] * 150),
    ],
    ids=[
        "steps of 5 ms",
        "of 50 ms",
        "of 1 s",
        "of 60 s",
        "20,000 tensors at steps of 93 ms",
        "20,000 tensors",
        "20,000 large tensors",
        "ten times slower",
        "ten times faster",
        "a pause",
        "uneven",
    ],
)
def test_any_two_hundred_steps_keep_the_share(
    count: int, numel: int, steps: list[float], fixed: float
) -> None:
    """
    After the first fifty: but for one thing that can't be split, a walk or the sweep of a tensor, and two rounds in a row,
    which are looked at or rested together; and the last one of them may be shorter than it promised to be.
    """
    slots: Any = Uniform(count, numel)
    trainer = Trainer(slots, Budget(0.005), steps[0], fixed=fixed)
    for seconds in steps:
        trainer.step_seconds = seconds
        trainer.run(1)
    ours = trainer.agent_seconds
    for start in range(START_STEPS, len(steps) - 200 + 1):
        window = slice(start, start + 200)
        allowed = 0.005 * (sum(steps[window]) + sum(ours[window]) + steps[0])
        assert sum(ours[window]) <= allowed + max(trainer.whole[window]) + IN_A_ROW * fixed
