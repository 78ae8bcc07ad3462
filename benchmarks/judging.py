"""
One case trained and judged: what was said of its twins, and whether that is a hit, a false alarm or neither.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.fits import ANY, FITS
from benchmarks.twins import train
from trainvitals_monitor.detectors import Detector
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.history import Reference, View
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.overrides import Tuning
from trainvitals_monitor.recording import reference_from
from trainvitals_monitor.replay import replay


@dataclass(frozen=True)
class Shown:
    """A finding above info, and the step (the trainer's) at which a monitor would have shown it."""

    detector: str
    severity: str
    first_step: int
    told_step: int
    subjects: list[str]
    message: str


@dataclass
class Result:
    """What was said of a case's twins; `hit` is the earliest finding that counts."""

    case: Case
    hit: Shown | None = None
    early: list[Shown] = field(default_factory=list)
    others: list[Shown] = field(default_factory=list)
    alarms: list[Shown] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int | None:
        """From onset to the first step that the finding names as wrong."""
        return None if self.hit is None else max(0, self.hit.first_step - self.case.onset)

    @property
    def told_after(self) -> int | None:
        """From onset to the step at which it was told."""
        return None if self.hit is None else max(0, self.hit.told_step - self.case.onset)


class Listener(Engine):
    """An engine that notes at which step each finding is first above info."""

    def __init__(
        self, run: str, detectors: Sequence[type[Detector]], tuning: Tuning | None = None
    ) -> None:
        super().__init__(run, detectors, tuning)
        self.told: dict[str, tuple[str, int]] = {}

    def _look(self, attempt: AttemptHistory, view: View) -> None:
        super()._look(attempt, view)
        for finding in self.drain_changes():
            if finding.severity is not Severity.INFO:
                self.told.setdefault(finding.id, (attempt.key, view.step))

    def told_step(self, finding: Finding) -> int:
        """In the trainer's numbers."""
        key, step = self.told[finding.id]
        return max(0, step + (self._offsets.get(key) or 0))


def judge(
    case: Case, corpus: Path, budget: str, with_reference: bool = False, seed: int = 0
) -> Result:
    """Both twins of a case (a healthy run has one), trained and judged; the reference is one more healthy run."""
    result = Result(case)
    with tempfile.TemporaryDirectory(prefix="detection-") as good:
        if with_reference:
            result.errors += train(
                case.name, "healthy", Path(good), corpus, budget, case.world_size, seed
            )
        reference = reference_from(Path(good)) if with_reference and not result.errors else None
        for twin in ("healthy",) if case.is_healthy else ("faulty", "healthy"):
            with tempfile.TemporaryDirectory(prefix="detection-") as folder:
                errors = train(case.name, twin, Path(folder), corpus, budget, case.world_size, seed)
                result.errors += [f"{twin}: {error}" for error in errors]
                written = any(Path(folder).rglob("*.safetensors"))
                told = listen(Path(folder), reference) if written else []
            if twin == "healthy":
                result.alarms = told
            else:
                sort_out(result, told)
    return result


def listen(folder: Path, reference: Reference | None = None) -> list[Shown]:
    """What the engine says above info about the frames, as it was told."""
    told = []
    for engine in replay(folder, make=Listener, reference=reference):
        assert isinstance(engine, Listener)
        assert not engine.detector_failures, engine.last_failure
        told += [
            Shown(
                detector=finding.detector,
                severity=finding.severity.value,
                first_step=finding.first_step,
                told_step=engine.told_step(finding),
                subjects=finding.subjects[:3],
                message=finding.message,
            )
            for finding in engine.findings
            if finding.severity is not Severity.INFO
        ]
    return sorted(told, key=lambda one: (one.told_step, one.first_step))


def sort_out(result: Result, told: Iterable[Shown]) -> None:
    """Hit, too early, or of another family; a second one that fits is no hit."""
    fits = FITS.get(result.case.family)
    for one in told:
        if one.first_step < result.case.earliest:
            result.early.append(one)
        elif result.hit is None and (fits is None or one.detector in (*fits, ANY)):
            result.hit = one
        else:
            result.others.append(one)


def totals(results: Sequence[Result]) -> dict[str, float]:
    """What is compared with the accepted totals: more found, fewer alarms, fewer steps are better."""
    faulty = [result for result in results if not result.case.is_healthy]
    steps = [result.steps for result in faulty if result.steps is not None]
    told = [result.told_after for result in faulty if result.told_after is not None]
    return {
        "faulty": len(faulty),
        "found": len(steps),
        "healthy": len(results),
        "false_alarms": sum(len(result.alarms) + len(result.early) for result in results),
        "errors": sum(len(result.errors) for result in results),
        "steps_median": statistics.median(steps) if steps else math.inf,
        "steps_p90": _percentile(steps, 90),
        "told_median": statistics.median(told) if told else math.inf,
        "told_p90": _percentile(told, 90),
    }


def _percentile(values: Sequence[int], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return float(ordered[math.ceil(len(ordered) * percent / 100) - 1]) if ordered else math.inf


def worse(now: dict[str, float], accepted: dict[str, float]) -> list[str]:
    """The totals that are worse than the accepted ones, in words."""
    higher_is_better = {"faulty", "found", "healthy"}
    return [
        f"{name}: {now[name]:g}, accepted is {accepted[name]:g}"
        for name in accepted
        if (now[name] < accepted[name] if name in higher_is_better else now[name] > accepted[name])
    ]
