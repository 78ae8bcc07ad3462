"""
What a finding is: a detector's claim about a run, with a stable id, opened and resolved, with its evidence.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

MAX_EVIDENCE = 16
"""Rows of evidence that a finding keeps; the count of subjects stays exact."""


class Severity(str, Enum):
    """How bad: see DESIGN's words. Ordered by `rank`."""

    CRITICAL = "critical"
    """The state is wrong now and will not heal by itself."""
    WARNING = "warning"
    """Probably wrong; look today."""
    INFO = "info"
    """Worth knowing; never affects an exit status or an alert."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return ("critical", "warning", "info").index(self.value)


class Status(str, Enum):
    """Where a finding is in its life."""

    OPEN = "open"
    RESOLVED = "resolved"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """
    One fault of one run. Steps are the trainer's own where it told us (see `step_offset` in frame.py).

    `subjects`: canonical FQNs, first wrong first; all share `group`, an FQN pattern (or "run"). `first_step`: the first
    step whose state is wrong; `last_good_step`: the last that was looked at and right (-1: none). `last_step`: the last
    step at which the detector still claimed it. `evidence`: rows of numbers, JSON-safe. `advice`: what to do.
    `caused_by`: id of the finding that explains this one ("" if it stands for itself).
    """

    id: str
    run: str
    attempt: str
    detector: str
    severity: Severity
    group: str
    subjects: list[str]
    first_step: int
    last_good_step: int = -1
    last_step: int
    status: Status = Status.OPEN
    message: str
    advice: str
    evidence: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    last_clean_checkpoint: str = ""
    caused_by: str = ""
    manual: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data, as the API, `replay --json` and the store have it."""
        return {**asdict(self), "severity": self.severity.value, "status": self.status.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        """The inverse of `as_json`."""
        return cls(
            **{**data, "severity": Severity(data["severity"]), "status": Status(data["status"])}
        )

    def resolved(self) -> Finding:
        """The same finding, closed."""
        return replace(self, status=Status.RESOLVED)


def finding_id(run: str, attempt: str, detector: str, group: str) -> str:
    """A stable id: the same fault of the same group has the same id, whatever subjects join later."""
    key = f"{run}\n{attempt}\n{detector}\n{group}"
    return f"{detector}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
