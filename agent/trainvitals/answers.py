"""
What the monitor answers, and how the trainer gets to know of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from trainvitals.errors import FindingRaised
from trainvitals.guard import Guard
from trainvitals.speech import finding_line, say

_NEEDED = ("id", "detector", "severity", "message", "advice")

OnFinding = Callable[[dict[str, Any]], None] | str


class Answers:
    """
    The run's open findings as the monitor last said. `take` runs on the sender's thread and only keeps them; `tell`, on
    the trainer's thread at the next step, logs each new one, hands it to the user's callable, or raises it.
    """

    def __init__(self, on_finding: OnFinding, guard: Guard, quiet: bool) -> None:
        self._on_finding = on_finding
        self._guard = guard
        self._quiet = quiet
        self._page = ""
        self._told: set[str] = set()
        self.findings: list[dict[str, Any]] = []

    def take(self, reply: Mapping[str, Any]) -> None:
        """A reply to an accepted frame, as parsed JSON; what is no finding in it (another version's) is passed over."""
        self._page = str(reply.get("page", ""))
        self.findings = [dict(each) for each in reply.get("findings") or () if _is_finding(each)]

    def tell(self, may_raise: bool = True) -> None:
        """Each finding once; raises FindingRaised for one above info if that was asked for."""
        for finding in self.findings:
            if finding["id"] in self._told:
                continue
            self._told.add(finding["id"])
            if callable(self._on_finding):
                self._guard.call("on_finding", self._on_finding, finding)
            elif not self._quiet:
                level = logging.INFO if finding["severity"] == "info" else logging.WARNING
                say(finding_line(finding, self._page), level=level)
            if self._on_finding == "raise" and may_raise and finding["severity"] != "info":
                raise FindingRaised(finding)


def _is_finding(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(given.get(key), str) for key in _NEEDED)
