"""
From claims to findings: which finding a claim belongs to, who its subjects are, when it is resolved.

One finding per detector and group: 32 layers with one fault are one finding with 32 subjects. Tensors that one claim
names first in one look are one group, an FQN pattern or what their patterns have in common (groups.py); what a group's
name covers later joins it. Steps in here are ours; they become the trainer's when a `Finding` is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SERIES_TABLE
from trainvitals_monitor.case import Case, Subject, filled, num_rows
from trainvitals_monitor.detectors.detector import Claim, Detector
from trainvitals_monitor.findings import MAX_EVIDENCE, Finding, finding_id
from trainvitals_monitor.groups import common_pattern, covers
from trainvitals_monitor.history import View

RUN = "run"

_Key = tuple[str, str, str]
"""Attempt, detector, the claim's key."""


@dataclass
class _Assigned:
    """Which case each tensor of an attempt belongs to, for one detector: -1 for none yet."""

    case: npt.NDArray[np.int64]

    def grow(self, num_tensors: int) -> None:
        more = num_tensors - len(self.case)
        if more > 0:
            self.case = np.pad(self.case, (0, more), constant_values=-1)


class Casebook:
    """Every case of a run that was ever opened, in the order in which they were."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._cases: list[Case] = []
        self._number: dict[str, int] = {}
        self._assigned: dict[_Key, _Assigned] = {}
        self.changed: set[str] = set()

    @property
    def cases(self) -> list[Case]:
        """All cases, in the order in which they were opened."""
        return self._cases

    def get(self, finding: str) -> Case | None:
        """The case of this id."""
        number = self._number.get(finding)
        return None if number is None else self._cases[number]

    def restore(self, findings: Iterable[Finding]) -> None:
        """Cases as they were stored; claims about them join them."""
        for finding in findings:
            self._add(Case.restored(finding))

    def claim(self, view: View, detector: Detector, claims: Sequence[Claim]) -> None:
        """
        Take up what a detector claims at a look.

        Raises KeyError, ValueError, IndexError or TypeError when a message asks for evidence that the claim lacks, or
        evidence is shorter than the claim's tensors; nothing of the claims is taken up then.
        """
        for claim in claims:
            _check(view, claim)
        by_key: dict[str, list[Claim]] = {}
        for claim in claims:
            by_key.setdefault(claim.key, []).append(claim)
        for key, same in by_key.items():
            for claim in same:
                if not len(claim.tensors):
                    self._claim_run(view, detector, claim)
            self._claim_tensors(view, detector, key, [c for c in same if len(c.tensors)])

    def resolve(self, view: View, detectors: Mapping[str, Detector]) -> None:
        """Close what its detector has not claimed for long enough, though it has looked."""
        for case in self._cases:
            if not case.is_open or case.attempt != view.attempt:
                continue
            detector = detectors.get(case.detector)
            silence = detector.resolve_after if detector else None
            last_step = case.last_step(view.step_offset or 0)
            if (
                detector is not None
                and silence is not None
                and view.step - last_step >= silence
                and _looked_since(view, case, detector, last_step)
            ):
                case.is_open = False
                self.changed.add(case.id)

    def end_attempt(self, attempt: str) -> None:
        """A later attempt goes on: what was open in this one is no longer so."""
        for case in self._cases:
            if case.is_open and case.attempt == attempt:
                case.is_open = False
                self.changed.add(case.id)

    def offset_changed(self, attempt: str) -> None:
        """The trainer's own step numbers have become known: findings read differently."""
        self.changed |= {case.id for case in self._cases if case.attempt == attempt}

    # -- claims about the run, and about tensors -------------------------------------------------------------------

    def _claim_run(self, view: View, detector: Detector, claim: Claim) -> None:
        case = self._case(view, detector, claim.key, RUN)
        case.add(Subject.of(view, claim, 0))
        self._touch(case, view, detector, claim)

    def _claim_tensors(
        self, view: View, detector: Detector, key: str, claims: Sequence[Claim]
    ) -> None:
        assigned = self._assigned.setdefault(
            (view.attempt, detector.name, key), _Assigned(np.empty(0, np.int64))
        )
        assigned.grow(view.num_tensors)
        for claim in claims:
            kept = ~view.ignored[claim.tensors]
            numbers = assigned.case[claim.tensors]
            for number in np.unique(numbers[kept & (numbers >= 0)]).tolist():
                self._touch(self._cases[number], view, detector, claim)
            unknown = np.flatnonzero(kept & (numbers < 0)).tolist()
            self._open(view, detector, key, claim, unknown, assigned)

    def _open(
        self,
        view: View,
        detector: Detector,
        key: str,
        claim: Claim,
        rows: Sequence[int],
        assigned: _Assigned,
    ) -> None:
        """The claim's tensors in these rows have no case yet: they join one that covers them, or form a new one."""
        pattern_of = {row: view.tensors.pattern[int(claim.tensors[row])] for row in rows}
        covering = {
            pattern: self._covering(view, detector, key, pattern) for pattern in pattern_of.values()
        }
        fresh = [pattern for pattern, group in covering.items() if group is None]
        group = common_pattern(fresh) if fresh else ""
        for row, pattern in pattern_of.items():
            case = self._case(view, detector, key, covering[pattern] or group)
            assigned.case[claim.tensors[row]] = self._number[case.id]
            case.add(Subject.of(view, claim, row))
            self._touch(case, view, detector, claim)

    def _covering(self, view: View, detector: Detector, key: str, pattern: str) -> str | None:
        """The group of this detector's cases that the pattern belongs to, oldest first."""
        groups = dict.fromkeys(
            case.group
            for case in self._cases
            if case.detector == detector.name and case.attempt == view.attempt
        )
        return next(
            (
                one
                for one in groups
                if covers(one, pattern) and self._find(view, detector, key, one)
            ),
            None,
        )

    def _touch(self, case: Case, view: View, detector: Detector, claim: Claim) -> None:
        case.claimed(view.step, claim.severity or detector.severity)
        self.changed.add(case.id)

    def _case(self, view: View, detector: Detector, key: str, group: str) -> Case:
        found = self._find(view, detector, key, group)
        if found is not None:
            return found
        case = Case(
            id=self._id(view, detector, key, group),
            run=self._run,
            attempt=view.attempt,
            detector=detector.name,
            group=group,
        )
        self._add(case)
        return case

    def _find(self, view: View, detector: Detector, key: str, group: str) -> Case | None:
        return self.get(self._id(view, detector, key, group))

    def _id(self, view: View, detector: Detector, key: str, group: str) -> str:
        return finding_id(
            self._run, view.attempt, detector.name, f"{group}\n{key}" if key else group
        )

    def _add(self, case: Case) -> None:
        self._number[case.id] = len(self._cases)
        self._cases.append(case)


def _check(view: View, claim: Claim) -> None:
    """A claim that contradicts itself is its detector's bug."""
    count = len(claim.tensors)
    if count and not (
        0 <= int(np.min(claim.tensors)) <= int(np.max(claim.tensors)) < view.num_tensors
    ):
        raise IndexError(f"claims tensors {claim.tensors} of {view.num_tensors}")
    columns = {
        **claim.evidence,
        "first_step": claim.first_step,
        "last_good_step": claim.last_good_step,
    }
    for name, values in columns.items():
        rows = num_rows(values)
        if rows not in (None, 1, max(1, count)):
            raise ValueError(f"{name} has {rows} rows for {count} tensors")
    subject = Subject.of(view, claim, 0)
    for template in (subject.message, subject.advice):
        filled(template, subject, count, view.step_offset or 0)


def _looked_since(view: View, case: Case, detector: Detector, step: int) -> bool:
    """Whether all its subjects were looked at again by a statistic that the detector reads; one that reads none always looks."""
    stats = [name for name in detector.reads if name in SERIES_TABLE]
    found = [view.tensors.index_of(fqn) for fqn in case.fqns(MAX_EVIDENCE)]
    indices = [index for index in found if index is not None]
    if not stats or not indices:
        return True
    return any(bool((view.last_seen(stat)[indices] > step).all()) for stat in stats)
