"""
What `attach` answers where it failed for a reason of ours: an agent that watches nothing, so that training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainvitals.agent import Agent
from trainvitals.attempt import World
from trainvitals.coverage import no_coverage
from trainvitals.plan import Plan
from trainvitals.settings import resolve


class InertAgent(Agent):
    """An agent without hooks, thread or facts; every method works, and does nothing."""

    def __init__(self, error: str) -> None:
        self._error = error
        self.run = self.attempt = ""
        self.world = World()
        self.settings = resolve({}, {})

    def close(self) -> None:
        """Nothing is open."""

    def flush(self) -> bool:
        """Nothing was sent."""
        return False

    def log(self, *, step: int | None = None, loss: Any = None, **scalars: Any) -> None:
        """Nobody listens."""

    def step(self) -> None:
        """Nobody looks."""

    @property
    def findings(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def coverage(self) -> dict[str, Any]:
        """Nothing was looked at, and why."""
        return {
            **no_coverage(),
            "limits": [],
            "switched_off": {"attach": self._error},
            "failures": {},
            "plan": Plan().as_json(),
        }

    def plan(self) -> Plan:
        """No look is taken."""
        return Plan()

    def touched(self) -> list[str]:
        """Nothing."""
        return []

    def at_close(self, _touched: str, undo: Callable[[], None], /) -> None:
        """Given back at once."""
        undo()
