"""
One finding in the making: its subjects with their evidence, and the `Finding` that others are shown.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trainvitals_monitor.detectors.detector import Claim
from trainvitals_monitor.findings import MAX_EVIDENCE, Finding, Severity, Status
from trainvitals_monitor.first_cause import Fault, places_of
from trainvitals_monitor.history import View

NOT_OURS = frozenset({"optimizer_step"})
"""Evidence that is named like a step and is none: the optimizer's own counter."""


@dataclass(frozen=True)
class Subject:
    """A tensor (or the run: fqn "") that a claim is about. `evidence` is as the detector gave it, empty if not kept."""

    fqn: str
    first_step: int
    last_good_step: int
    message: str
    advice: str
    evidence: Mapping[str, Any]
    order: int = 0

    @classmethod
    def of(cls, view: View, claim: Claim, row: int) -> Subject:
        """The subject in this row of the claim."""
        about_run = not len(claim.tensors)
        first = view.step if claim.first_step is None else claim.first_step
        tensor = -1 if about_run else int(claim.tensors[row])
        return cls(
            fqn="" if about_run else view.tensors.fqn[tensor],
            order=0 if about_run else int(view.tensors.order[tensor]),
            first_step=int(_at(first, row)),
            last_good_step=int(_at(claim.last_good_step, row)),
            message=claim.message,
            advice=claim.advice,
            evidence={name: _plain(_at(values, row)) for name, values in claim.evidence.items()},
        )


@dataclass
class Case:
    """
    A finding in the making. Subjects are kept in the order of their first step; evidence of the first MAX_EVIDENCE.

    `stored` is what the store had of it after a restart: it stays as it was, and what is claimed now joins it.
    """

    id: str
    run: str
    attempt: str
    detector: str
    group: str
    severity: Severity = Severity.INFO
    is_open: bool = True
    stored: Finding | None = None
    subjects: list[Subject] = field(default_factory=list)
    _last_step: int = -1
    _fqns: set[str] = field(default_factory=set)
    _places: tuple[int, frozenset[str]] = (0, frozenset())

    @classmethod
    def restored(cls, finding: Finding) -> Case:
        """A case as the store has it."""
        return cls(
            id=finding.id,
            run=finding.run,
            attempt=finding.attempt,
            detector=finding.detector,
            group=finding.group,
            severity=finding.severity,
            is_open=finding.status is Status.OPEN,
            stored=finding,
            _fqns=set(finding.subjects or [""]),
        )

    def last_step(self, offset: int) -> int:
        """The last step at which it was claimed, in our numbers."""
        stored = -1 if self.stored is None else self.stored.last_step - offset
        return max(self._last_step, stored)

    def fqns(self, count: int) -> list[str]:
        """The first subjects' FQNs."""
        own = [subject.fqn for subject in self.subjects]
        return [*(self.stored.subjects if self.stored else []), *own][:count]

    def claimed(self, step: int, severity: Severity) -> None:
        """Its detector claims it at this step; the severity is the worst that was claimed."""
        self._last_step = max(self._last_step, step)
        self.is_open = True
        if severity.rank < self.severity.rank:
            self.severity = severity

    def add(self, subject: Subject) -> None:
        """One more subject, unless it is one already."""
        if subject.fqn in self._fqns:
            return
        self._fqns.add(subject.fqn)
        place = bisect_right(self.subjects, _rank(subject), key=_rank)
        self.subjects.insert(place, subject)
        if len(self.subjects) > MAX_EVIDENCE:
            beyond = max(place, MAX_EVIDENCE)
            self.subjects[beyond] = replace(self.subjects[beyond], evidence={})

    def finding(self, offset: int, last_clean_checkpoint: str) -> Finding:
        """What others are shown; `offset` is the trainer's step number minus ours."""
        rows = [_row(subject, offset) for subject in self.subjects[:MAX_EVIDENCE]]
        rows = [row for row in rows if row]
        fqns = [subject.fqn for subject in self.subjects if subject.fqn]
        ranks = {row["rank"] for row in rows if isinstance(row.get("rank"), int)}
        status = Status.OPEN if self.is_open else Status.RESOLVED
        last_step = _shifted(self.last_step(offset), offset)
        if self.stored is not None:
            return replace(
                self.stored,
                severity=self.severity,
                status=status,
                last_step=last_step,
                subjects=[*self.stored.subjects, *fqns],
                evidence=[*self.stored.evidence, *rows][:MAX_EVIDENCE],
                ranks=sorted(ranks | set(self.stored.ranks)),
            )
        first = self.subjects[0]
        return Finding(
            id=self.id,
            run=self.run,
            attempt=self.attempt,
            detector=self.detector,
            severity=self.severity,
            group=self.group,
            subjects=fqns,
            first_step=_shifted(first.first_step, offset),
            last_good_step=_shifted(first.last_good_step, offset),
            last_step=last_step,
            status=status,
            message=_readable(first.message, first, len(fqns), offset),
            advice=_readable(first.advice, first, len(fqns), offset),
            evidence=rows,
            ranks=sorted(ranks),
            last_clean_checkpoint=last_clean_checkpoint,
            manual=f"docs/detectors.md#{self.detector}",
        )

    def first_step(self, offset: int) -> int:
        """The first step whose state is wrong, in our numbers."""
        if self.stored is not None:
            return self.stored.first_step - offset
        return self.subjects[0].first_step

    def fault(self, offset: int) -> Fault:
        """What its cause is found by."""
        if self._places[0] != len(self._fqns):
            self._places = len(self._fqns), places_of(self._fqns)
        return Fault(
            id=self.id,
            attempt=self.attempt,
            detector=self.detector,
            severity=self.severity,
            first_step=self.first_step(offset),
            last_step=self.last_step(offset),
            places=self._places[1],
        )


def _rank(subject: Subject) -> tuple[int, int]:
    """First wrong first; of those, first in the model."""
    return subject.first_step, subject.order


def filled(template: str, subject: Subject, count: int, offset: int) -> str:
    """
    A claim's message or advice with the subject's evidence filled in, steps in the trainer's numbers.

    Raises KeyError, ValueError, IndexError or TypeError when it asks for what the evidence lacks.
    """
    fields = {
        "step": _shifted(subject.first_step, offset),
        "first_step": _shifted(subject.first_step, offset),
        "last_good_step": _shifted(subject.last_good_step, offset),
        **_told(subject.evidence, offset),
    }
    return template.format(**{**fields, "fqn": subject.fqn, "count": count})


def _readable(template: str, subject: Subject, count: int, offset: int) -> str:
    try:
        return filled(template, subject, count, offset)
    except (KeyError, ValueError, IndexError, TypeError):
        # Only the claim's first row was tried; better a bare template than no finding.
        return template


def _row(subject: Subject, offset: int) -> dict[str, Any]:
    told = {name: _json_safe(value) for name, value in _told(subject.evidence, offset).items()}
    if subject.fqn and told:
        return {"fqn": subject.fqn, **told}
    return told


def _told(evidence: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """The evidence with steps in the trainer's numbers."""
    return {
        name: _shifted(value, offset) if _is_step(name, value) else value
        for name, value in evidence.items()
    }


def _is_step(name: str, value: Any) -> bool:
    named = name == "step" or name.endswith("_step")
    return named and name not in NOT_OURS and isinstance(value, int)


def _shifted(step: int, offset: int) -> int:
    """A step of ours as the trainer counts; the state before its step 0 is of step 0 too. -1 stays "none"."""
    return max(step + offset, 0) if step >= 0 else -1


def num_rows(values: Any) -> int | None:
    """The length of a column of a claim; None for a single value."""
    if isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim):
        return len(values)
    return None


def _at(values: Any, row: int) -> Any:
    """One row of a column; a single value, or a column of length one, is meant for all rows."""
    rows = num_rows(values)
    if rows is None:
        return values
    return values[row] if row < rows else values[0]


def _plain(value: Any) -> Any:
    return (
        value.item()
        if isinstance(value, (np.generic, np.ndarray)) and not np.ndim(value)
        else value
    )


def _json_safe(value: Any) -> Any:
    """JSON has no NaN: non-finite floats are told as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, np.ndarray):
        return [_json_safe(_plain(one)) for one in value]
    if isinstance(value, (list, tuple)):
        return [_json_safe(_plain(one)) for one in value]
    return value
