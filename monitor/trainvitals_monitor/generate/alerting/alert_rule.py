"""
What an alert is: its rule, what it means, what to do, and the series that must and must not fire it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DOCS = "https://github.com/trainvitals/trainvitals/blob/main/docs/"
JOB = "trainvitals"
RUN = "moe-1"
MONITOR = "monitor:8420"

Series = Mapping[str, str]
"""Input series of promtool's tests: what is scraped, and its values, a minute apart."""


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """
    One alert. `description`: what is wrong, `action`: what to do, for who is woken. `severity` and `detector`: labels that the rule adds; "" where the expression has them.

    `firing`: series with which the expression is true from minute `onset` on, `quiet`: sets of series with which it
    never is, `labels`: what the alert has besides those that the rule adds, `expanded`: its annotations as these series
    make them, where they are templates.
    """

    name: str
    expr: str
    hold: str
    severity: str = ""
    detector: str = ""
    summary: str
    description: str
    action: str
    runbook: str
    links: Mapping[str, str] = field(default_factory=dict)
    firing: Series
    quiet: tuple[Series, ...]
    onset: int = 10
    labels: Mapping[str, str]
    expanded: Mapping[str, str] = field(default_factory=dict)

    @property
    def hold_minutes(self) -> int:
        """`hold` in minutes."""
        return int(self.hold.removesuffix("m"))

    def rule(self) -> dict[str, Any]:
        """As a rule file has it."""
        made: dict[str, Any] = {"alert": self.name, "expr": self.expr, "for": self.hold}
        added = self.added_labels()
        if added:
            made["labels"] = added
        return {**made, "annotations": self.annotations()}

    def added_labels(self) -> dict[str, str]:
        """Labels that the rule adds."""
        own = {"severity": self.severity, "detector": self.detector}
        return {name: value for name, value in own.items() if value}

    def annotations(self) -> dict[str, str]:
        """With templates, as Prometheus expands them."""
        return {
            "summary": self.summary,
            "description": self.description,
            "action": self.action,
            "runbook_url": self.runbook,
            **self.links,
        }


def words(name: str) -> str:
    """`slot-replaced` as part of an alert's name: SlotReplaced."""
    return "".join(part.capitalize() for part in name.split("-"))


def scraped(metric: str, **labels: str) -> str:
    """A series as the monitor's job has it."""
    pairs = {**labels, "instance": MONITOR, "job": JOB}
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in pairs.items()) + "}"
