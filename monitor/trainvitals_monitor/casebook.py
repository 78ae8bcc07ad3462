"""
From claims to findings: which finding a claim belongs to, who its subjects are, when it is resolved.

One finding per detector and FQN pattern: 32 layers with one fault are one finding with 32 subjects. When a single look
brings more than MAX_NEW_PATTERNS new patterns for a detector, they are one finding with the group "*". Steps in here
are ours; they become the trainer's when a `Finding` is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SERIES_TABLE
from trainvitals_monitor.case import Case, Subject, message_of, num_rows
from trainvitals_monitor.detectors.detector import Claim, Detector
from trainvitals_monitor.findings import MAX_EVIDENCE, Finding, finding_id
from trainvitals_monitor.history import View

MAX_NEW_PATTERNS = 4
EVERYTHING = "*"
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
        new: list[tuple[Claim, int, int]] = []
        for claim in claims:
            kept = ~view.ignored[claim.tensors]
            numbers = assigned.case[claim.tensors]
            for number in np.unique(numbers[kept & (numbers >= 0)]).tolist():
                self._touch(self._cases[number], view, detector, claim)
            unknown = np.flatnonzero(kept & (numbers < 0)).tolist()
            new += [(claim, row, int(claim.tensors[row])) for row in unknown]
        if new:
            self._open(view, detector, key, new, assigned)

    def _open(
        self,
        view: View,
        detector: Detector,
        key: str,
        new: Sequence[tuple[Claim, int, int]],
        assigned: _Assigned,
    ) -> None:
        """Subjects that have no case yet get one."""
        patterns = dict.fromkeys(view.tensors.pattern[tensor] for _, _, tensor in new)
        everything = self._find(view, detector, key, EVERYTHING)
        fresh = [one for one in patterns if self._find(view, detector, key, one) is None]
        to_all = frozenset(fresh) if everything or len(fresh) > MAX_NEW_PATTERNS else frozenset()
        for claim, row, tensor in new:
            pattern = view.tensors.pattern[tensor]
            case = self._case(view, detector, key, EVERYTHING if pattern in to_all else pattern)
            assigned.case[tensor] = self._number[case.id]
            case.add(Subject.of(view, claim, row))
            self._touch(case, view, detector, claim)

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
        number = self._number.get(self._id(view, detector, key, group))
        return None if number is None else self._cases[number]

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
    message_of(Subject.of(view, claim, 0), count, view.step_offset or 0)


def _looked_since(view: View, case: Case, detector: Detector, step: int) -> bool:
    """Whether any of the detector's statistics was looked at again; one that reads none always looks."""
    stats = [name for name in detector.reads if name in SERIES_TABLE]
    found = [view.tensors.index_of(fqn) for fqn in case.fqns(MAX_EVIDENCE)]
    indices = [index for index in found if index is not None]
    if not stats or not indices:
        return True
    return any(bool((view.last_seen(stat)[indices] > step).any()) for stat in stats)
