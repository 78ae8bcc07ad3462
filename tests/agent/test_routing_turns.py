"""
Many routers have their turns, whichever steps are looked at.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.agent.rig import Rig
from tests.agent.test_routing import Mixture
from trainvitals.probes.routing.routing import ROUTERS_A_LOOK
from trainvitals.rests import IN_A_ROW, MAX_RESTS, RANK_STEPS


class Trained:
    """A model of so many mixtures, each of them called before each step that is looked at."""

    def __init__(self, mixtures: int, world_size: int = 1) -> None:
        self.model = nn.Sequential(*(Mixture() for _ in range(mixtures)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.rig = Rig(self.model, world_size=world_size)

    def look(self, rounds: int) -> None:
        """So many rounds are looked at."""
        for _ in range(rounds):
            self.model(torch.randn(4, 6)).sum().backward()
            self.rig.round(self.optimizer)

    def heard(self) -> dict[int, set[int]]:
        """Of which routers loads were told, by step."""
        found: dict[int, set[int]] = {}
        for table in ("routing", "expert_loads"):
            for part in self.rig.table(table):
                for step, tensor in zip(
                    part["step"].tolist(), part["tensor"].tolist(), strict=True
                ):
                    found.setdefault(step, set()).add(tensor)
        return found


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_each_router_is_heard_in_its_turn(turns: int) -> None:
    """Hooks count for the second of two looks, and rests come in numbers that leave the same remainders for ever."""
    mixtures = turns * ROUTERS_A_LOOK
    trained = Trained(mixtures)
    for _ in range(turns):
        trained.look(IN_A_ROW)
        trained.rig.rest(rounds=MAX_RESTS)
    assert len(set.union(*trained.heard().values())) == mixtures
    before = trained.rig.step
    trained.look(1 + turns)
    heard = [mine for step, mine in trained.heard().items() if step > before]
    assert len(heard) == turns
    assert len(set.union(*heard)) == mixtures


@pytest.mark.parametrize("turns", [2, 3])
def test_ranks_hear_the_same_routers_whether_they_rest_or_not(turns: int) -> None:
    """At the steps that no rank rests at, or just after them; so each router's load is known in time."""
    mixtures = turns * ROUTERS_A_LOOK
    resting, looking = Trained(mixtures, world_size=2), Trained(mixtures, world_size=2)
    for _ in range(turns):
        resting.rig.rest(rounds=RANK_STEPS - 1 - resting.rig.step % RANK_STEPS)
        resting.look(IN_A_ROW)
        before = resting.rig.step - IN_A_ROW - 1
        looking.rig.rest(rounds=before - 1 - looking.rig.step)
        looking.look(IN_A_ROW + 2)
    both = [mine for step, mine in resting.heard().items() if mine == looking.heard().get(step)]
    assert len(both) == turns
    assert len(set.union(*both)) == mixtures
