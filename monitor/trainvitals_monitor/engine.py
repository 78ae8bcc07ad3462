"""
The engine of one run: frames in, findings out. The same one serves live ingest, `replay` and `check`.

It holds the run's history, lets every detector look at each step that is complete, and keeps the book of cases. Nothing
here reads a clock but to measure detectors, so that the same frames give the same findings at any time, in any order.
One thread at a time may call an engine.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.contract import Contract
from trainvitals.frame import Header
from trainvitals_monitor.case import Case
from trainvitals_monitor.casebook import Casebook
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.detectors.detector import Detector
from trainvitals_monitor.findings import Finding, Severity, Status
from trainvitals_monitor.first_cause import direct_causes
from trainvitals_monitor.folding import root_of
from trainvitals_monitor.history import RunHistory, View
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.history.rank import Tables
from trainvitals_monitor.overrides import Tuning, faults, joined
from trainvitals_monitor.pieces import Piece, cut
from trainvitals_monitor.report import coverage, summary
from trainvitals_monitor.saves import Saves

_LOG = logging.getLogger("trainvitals.engine")
_TIMED_EVERY = 7
"""
Of so many steps' looks one is timed, and counts for all: the clock of CPU time is a system call, and read after every
detector it took a twentieth of a frame. Which one is drawn: agents' looks come round every so many steps, and always the
same place in that round would count too much or nothing.
"""


class Engine:
    """
    One run, judged.

    Restart: make an engine, `restore(findings, marks)`, then `ingest` the stored frames again, in the order in which
    they were accepted. Steps before the mark fill the history only; the marked step and all after it are judged
    (again), which opens nothing twice.
    """

    def __init__(
        self,
        run: str,
        detectors: Sequence[type[Detector]] = DETECTORS,
        tuning: Tuning | None = None,
    ) -> None:
        self.run = run
        self.history = RunHistory(run)
        self._classes = tuple(detectors)
        self._tuning = tuning or Tuning()
        self._contract = Contract()
        self.detectors = self._tuned(self._contract)
        self.detector_seconds: dict[str, float] = {cls.name: 0.0 for cls in detectors}
        self.detector_failures: Counter[str] = Counter()
        self.last_failure: dict[str, str] = {}
        self.looks = 0
        self._timed_look = 0
        self._drawing = random.Random(run)
        self._cases = Casebook(run)
        self._saves = Saves()
        self._pieces: list[Piece] = []
        self._marks: dict[str, int] = {}
        self._judged: dict[str, int] = {}
        self._offsets: dict[str, int | None] = {}
        self._causes: dict[str, str] = {}

    # -- frames in -------------------------------------------------------------------------------------------------

    def check(self, header: Header, tables: Tables) -> bool:
        """
        Whether the frame is new; changes nothing.

        Raises:
            RunConflict: another process has spoken as this rank of this attempt.
            BadFrame: the frame contradicts earlier ones.
        """
        return self.history.check(header, tables)

    def ingest(self, header: Header, tables: Tables) -> bool:
        """
        Takes a validated frame of this run, from any rank and in any order, and judges what has become complete.

        Returns False for a frame that came before. Raises as `check` does, and changes nothing then.
        """
        attempt = self.history.ingest(header, tables)
        if attempt is None:
            return False
        if attempt.step_offset != self._offsets.get(attempt.key):
            self._offsets[attempt.key] = attempt.step_offset
            self._cases.offset_changed(attempt.key)
        self._judge(attempt)
        return True

    def finish(self) -> None:
        """No more frames will come: judge all that is there, and wait for nothing."""
        for attempt in self.history.attempts:
            attempt.give_up_waiting()
            self._judge(attempt, everything=True)

    def restore(self, findings: Iterable[Finding], judged_through: Mapping[str, int]) -> None:
        """What the store has of this run, before its frames are given again; `judged_through` by attempt."""
        stored = list(findings)
        self._cases.restore(stored)
        self._causes |= {one.id: one.caused_by for one in stored if one.caused_by}
        self._marks = dict(judged_through)

    # -- judging ---------------------------------------------------------------------------------------------------

    def _judge(self, attempt: AttemptHistory, everything: bool = False) -> None:
        if not attempt.judged_steps and (everything or attempt.has_ready):
            for old in self.history.before(attempt):
                old.give_up_waiting()
                self._judge(old, everything=True)
                self._cases.end_attempt(old.key)
            self.history.begin(attempt)
        for view in attempt.advance(everything):
            self._look(attempt, view)
        if attempt.ended:
            self._cut(attempt, None)

    def _look(self, attempt: AttemptHistory, view: View) -> None:
        self._saves.saw(attempt.key, view.new_checkpoints())
        if not view.is_late:
            self._cut(attempt, view.step)
        self._judged[attempt.key] = view.step
        if view.step < self._marks.get(attempt.key, -1):
            return
        self.looks += 1
        if view.contract is not self._contract:
            self._contract = view.contract
            self.detectors = self._tuned(view.contract)
        if self.looks % _TIMED_EVERY == 0:
            self._timed_look = self.looks + self._drawing.randrange(_TIMED_EVERY)
        timed = self.looks == self._timed_look
        begun = time.thread_time() if timed else 0.0
        for detector in self.detectors.values():
            self._ask(detector, view)
            if timed:
                done = time.thread_time()
                self.detector_seconds[detector.name] += _TIMED_EVERY * (done - begun)
                begun = done
        self._cases.resolve(view, self.detectors)

    def _tuned(self, contract: Contract) -> dict[str, Detector]:
        """The detectors that are on, with the monitor's thresholds, and over them the contract's."""
        own = Tuning(contract.thresholds, contract.off)
        tuning = joined(self._tuning, own, self._classes)
        return {
            cls.name: cls(tuning.of(cls.name))
            for cls in self._classes
            if cls.name not in tuning.off
        }

    def _ask(self, detector: Detector, view: View) -> None:
        """One detector's look. What it raises is its own failure: counted and logged, the others go on."""
        try:
            claims = list(detector.look(view))
            if claims:
                self._cases.claim(view, detector, claims)
        except Exception as error:  # noqa: BLE001 - a detector's fault must not keep the others from looking
            if not self.detector_failures[detector.name]:
                _LOG.exception("%s failed at step %d of run %r", detector.name, view.step, self.run)
            self.detector_failures[detector.name] += 1
            self.last_failure[detector.name] = f"{type(error).__name__}: {error}"[:500]

    def _cut(self, attempt: AttemptHistory, step: int | None) -> None:
        self._pieces += cut(attempt, step, self._marks.get(attempt.key, -1))

    # -- findings out ----------------------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """Every finding that was ever opened: by attempt, first wrong step, severity, then as they were opened."""
        order = {attempt: number for number, attempt in enumerate(self._attempt_order())}
        causes = self._causes_now()
        made = [self._finding(case, causes) for case in self._cases.cases]
        return sorted(
            made, key=lambda one: (order.get(one.attempt, -1), one.first_step, one.severity.rank)
        )

    @property
    def open_findings(self) -> list[Finding]:
        """Those that are open now, worst first."""
        found = [one for one in self.findings if one.status is Status.OPEN]
        return sorted(found, key=lambda one: one.severity.rank)

    def drain_changes(self) -> list[Finding]:
        """Findings that were opened, joined, claimed again, resolved or explained since the last call."""
        if not self._cases.changed:
            return []
        changed, self._cases.changed = self._cases.changed, set()
        before, self._causes = self._causes, self._causes_now()
        changed |= {finding for finding, _ in before.items() ^ self._causes.items()}
        return [
            self._finding(case, self._causes) for case in self._cases.cases if case.id in changed
        ]

    def _attempt_order(self) -> list[str]:
        opened = dict.fromkeys(case.attempt for case in self._cases.cases)
        kept = [attempt.key for attempt in self.history.attempts]
        return [*(key for key in opened if key not in kept), *kept]

    def _finding(self, case: Case, causes: Mapping[str, str]) -> Finding:
        """The case as others see it; the checkpoint to go back to is that of its first cause."""
        root = self._cases.get(root_of(causes, case.id)) or case
        clean = root.stored.last_clean_checkpoint if root.stored else self._last_clean(root)
        made = case.finding(self._offset(case), clean)
        return replace(made, last_clean_checkpoint=clean, caused_by=causes.get(case.id, ""))

    def _offset(self, case: Case) -> int:
        return self._offsets.get(case.attempt) or 0

    def _causes_now(self) -> dict[str, str]:
        return direct_causes(case.fault(self._offset(case)) for case in self._cases.cases)

    def _last_clean(self, case: Case) -> str:
        suspect = [
            (one.attempt, one.first_step(self._offset(one)), one.last_step(self._offset(one)))
            for one in self._cases.cases
            if one.severity is not Severity.INFO and self._family(one) == "checkpoint"
        ]
        first = case.first_step(self._offset(case))
        return self._saves.last_clean(case.attempt, first, self._offsets, suspect)

    def _family(self, case: Case) -> str:
        return next((cls.family for cls in self._classes if cls.name == case.detector), "")

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def judged_through(self) -> dict[str, int]:
        """By attempt, the last step (ours) that was judged: the mark to store with the findings."""
        return {key: max(step, self._marks.get(key, -1)) for key, step in self._judged.items()}

    def drain_pieces(self) -> list[Piece]:
        """Stretches of series that are complete since the last call, for the store (see pieces.py)."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def series(
        self, fqn: str, stat: str, attempt: str | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """
        Steps (ours) at which the tensor was looked at, and the values there, from the window in memory.

        Raises KeyError for a tensor or statistic that there is none of.
        """
        history = self.history.current if attempt is None else self.history.get(attempt)
        index = history.tensors.index_of(fqn) if history else None
        if history is None or index is None:
            raise KeyError(f"no tensor {fqn!r} in the window of run {self.run!r}")
        return history.window.series(stat, index)

    def worst(self, stat: str, count: int) -> list[tuple[str, float, int]]:
        """Tensors with the largest last value of a statistic, NaN first: FQN, value, step (ours) of that look."""
        history = self.history.current
        if history is None:
            return []
        values, steps = history.window.latest(stat), history.window.last_seen(stat)
        rated = np.where(np.isnan(values), np.inf, values)
        rated[steps < 0] = -np.inf
        order = np.argsort(-rated, kind="stable")[:count]
        return [
            (history.tensors.fqn[i], float(values[i]), int(steps[i]))
            for i in order
            if steps[i] >= 0
        ]

    def summary(self) -> dict[str, Any]:
        """The run in short (see report.py); {} before the first frame."""
        return summary(self.history)

    def coverage(self) -> dict[str, Any]:
        """What was looked at, and what was never exercised (see report.py)."""
        own = Tuning(self._contract.thresholds, self._contract.off)
        return {
            **coverage(self.history),
            "detector_failures": dict(self.detector_failures),
            "unknown": list(faults(own, self._classes)),
        }
