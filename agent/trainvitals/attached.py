"""
The agents that are attached in this process, and what becomes of those whose models nobody holds any more.

An abandoned agent closes itself: at the next `attach`, or by a thread that its sender starts. Torch's hooks can only be
removed where nobody runs through them, so those that such a thread has left, silent, are removed at the next `attach`.

Touches: one `os.register_at_fork` callback per process, which Python cannot take back; a child begins with no agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakSet

from torch import nn

from trainvitals.slots import SlotTable


@dataclass(frozen=True, eq=False)
class Attachment:
    """What is asked of an agent. `become_a_copy` is called in a forked child, where it is silent."""

    slots: SlotTable
    close: Callable[[], None]
    become_a_copy: Callable[[], None]


class Attached:
    """All open agents. The list is only replaced, never changed: threads may look at it at any time."""

    def __init__(self) -> None:
        self.agents: list[Attachment] = []
        self._is_in_step = False
        self._is_giving_way = False
        self._yielding: WeakSet[Attachment] = WeakSet()
        self._left: list[Callable[[], None]] = []

    def add(self, agent: Attachment) -> None:
        """It is open."""
        self.agents = [*self.agents, agent]
        if self._is_giving_way:
            self._yielding.add(agent)

    def discard(self, agent: Attachment) -> None:
        """It is closed."""
        self.agents = [other for other in self.agents if other is not agent]

    def leave(self, remove_hooks: Callable[[], None]) -> None:
        """Something to be done at the next `clear_out`."""
        self._left.append(remove_hooks)

    def has(self, model: nn.Module) -> bool:
        """Whether an open agent is attached to it."""
        return any(agent.slots.is_of(model) for agent in self.agents)

    def make_way(self, models: Iterable[nn.Module]) -> None:
        """Close the agents that were added to give way, if they watch any of these."""
        parameters = [parameter for model in models for parameter in model.parameters()]
        for agent in self.agents:
            index_of = agent.slots.index_of
            if agent in self._yielding and any(index_of(each) is not None for each in parameters):
                agent.close()

    def clear_out(self) -> None:
        """Close what is abandoned, and finish what was left; on a trainer's thread."""
        if self._is_in_step:
            return
        for agent in self.agents:
            if agent.slots.is_abandoned():
                agent.close()
        while self._left:
            self._left.pop()()

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """We are called by a hook of torch's: no other hook may be removed now."""
        self._is_in_step = True
        try:
            yield
        finally:
            self._is_in_step = False

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Agents that are added meanwhile give way to a later `attach()` of what they watch."""
        self._is_giving_way = True
        try:
            yield
        finally:
            self._is_giving_way = False

    def forget(self) -> None:
        """In a forked child, where the parent's agents are silent."""
        for agent in self.agents:
            agent.become_a_copy()
        self.agents = []


ATTACHED = Attached()
os.register_at_fork(after_in_child=ATTACHED.forget)
