"""
What the monitor answers, and how the trainer gets to know of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainvitals.errors import FindingRaised
from trainvitals.guard import Guard
from trainvitals.speech import finding_line, say

_NEEDED = ("id", "detector", "severity", "message", "advice")

_SEVERITIES = ("critical", "warning", "info")

OnFinding = Callable[[dict[str, Any]], None] | str


class Answers:
    """
    The run's open findings as the monitor last said. `take` runs on the sender's thread and only keeps them; `tell`, on
    the trainer's thread at the next step, logs each new one, hands it to the user's callable, or raises it. What follows
    from one that was told and is as bad is not logged, as long as that one is open.
    """

    def __init__(self, on_finding: OnFinding, guard: Guard, quiet: bool) -> None:
        self._on_finding = on_finding
        self._guard = guard
        self._quiet = quiet
        self._page = ""
        self._told: set[str] = set()
        self.is_news = False
        self.findings: list[dict[str, Any]] = []

    def take(self, reply: Mapping[str, Any]) -> None:
        """A reply to an accepted frame, as parsed JSON; what is no finding in it (another version's) is passed over."""
        self._page = str(reply.get("page", ""))
        self.findings = [dict(each) for each in reply.get("findings") or () if _is_finding(each)]
        self.is_news = True

    def tell(self, may_raise: bool = True) -> None:
        """Each finding once; raises FindingRaised for one above info if that was asked for."""
        if not self.is_news:
            return
        self.is_news = False  # before they are read: the sender's thread may bring others
        told_by_cause = _explained(self.findings) if self._on_finding == "log" else frozenset()
        for finding in self.findings:
            if finding["id"] in self._told or finding["id"] in told_by_cause:
                continue
            self._told.add(finding["id"])
            if callable(self._on_finding):
                self._guard.call("on_finding", self._on_finding, finding)
            elif not self._quiet:
                level = logging.INFO if finding["severity"] == "info" else logging.WARNING
                say(finding_line(finding, self._page), level=level)
            if self._on_finding == "raise" and may_raise and finding["severity"] != "info":
                raise FindingRaised(finding)


def _explained(findings: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Ids of those that another of these explains which is at least as bad."""
    severity = {finding["id"]: finding["severity"] for finding in findings}
    pairs = [(finding, str(finding.get("caused_by", ""))) for finding in findings]
    return frozenset(
        finding["id"]
        for finding, cause in pairs
        if cause in severity and _rank(severity[cause]) <= _rank(finding["severity"])
    )


def _rank(severity: str) -> int:
    """0 for the worst; one that only another version knows comes last."""
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


def _is_finding(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(given.get(key), str) for key in _NEEDED)
