"""
What people said about findings: acknowledged ones, and muted patterns. These are neither alerted nor notified.

Kept in a small file beside the store, written whole. A finding is muted while it is looked at, never in the store: it
stays on the page and in the API, with the reason.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from trainvitals_monitor.findings import Finding
from trainvitals_monitor.refusal import Refusal

MAX_MUTES = 1000


@dataclass(frozen=True, kw_only=True)
class Mute:
    """
    One entry. `finding`: the id of the one that is acknowledged, until it gets worse than `severity_rank`; "": all whose
    run, detector and every tensor match the patterns. `until`: Unix seconds; None: until it is taken back.
    """

    id: str
    run: str
    detector: str = "*"
    tensor: str = "*"
    finding: str = ""
    severity_rank: int = 0
    reason: str
    since: float
    until: float | None = None

    def covers(self, finding: Finding) -> bool:
        """Whether it is about this finding; whether its time is over is not asked here."""
        if self.finding:
            is_it = (self.run, self.finding) == (finding.run, finding.id)
            return is_it and finding.severity.rank >= self.severity_rank
        return (
            self.is_pattern_of(finding.run)
            and fnmatchcase(finding.detector, self.detector)
            and all(fnmatchcase(name, self.tensor) for name in finding.subjects or [""])
        )

    def is_pattern_of(self, run: str) -> bool:
        """Whether it is about this run, and no single finding."""
        return not self.finding and (run == self.run or fnmatchcase(run, self.run))

    def covers_run(self, run: str) -> bool:
        """Whether it is about everything of this run."""
        return self.is_pattern_of(run) and (self.detector, self.tensor) == ("*", "*")


class Mutes:
    """The entries that hold now. Any thread. ValueError, one line, if the file cannot be read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._mutes = self._read()

    def all(self) -> list[Mute]:
        """Those that hold now, oldest first."""
        now = time.time()
        return [one for one in self._mutes if one.until is None or one.until > now]

    def of(self, finding: Finding) -> Mute | None:
        """The first that covers the finding."""
        return next((one for one in self.all() if one.covers(finding)), None)

    def heard(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that nobody muted."""
        mutes = self.all()
        return [one for one in findings if not any(mute.covers(one) for mute in mutes)]

    def silences(self, run: str) -> bool:
        """Whether everything of the run is muted, and not some of its findings alone."""
        return any(mute.covers_run(run) for mute in self.all())

    def add(
        self, *, run: str, detector: str, tensor: str, reason: str, hours: float | None, of: Finding | None
    ) -> Mute:  # fmt: skip
        """A new entry, kept before this returns; `of`: the finding that is acknowledged."""
        now = time.time()
        made = Mute(
            id=secrets.token_hex(5),
            run=run,
            detector=of.detector if of else detector,
            tensor=tensor,
            finding=of.id if of else "",
            severity_rank=of.severity.rank if of else 0,
            reason=reason,
            since=now,
            until=None if hours is None else now + 3600 * hours,
        )
        with self._lock:
            known = self.all()
            if len(known) >= MAX_MUTES:
                raise Refusal("over-limit", f"there are {MAX_MUTES} mutes: take some back")
            self._keep([*known, made])
        return made

    def remove(self, mute: str) -> None:
        """Take one back; Refusal if there is none of this id."""
        with self._lock:
            kept = [one for one in self.all() if one.id != mute]
            if len(kept) == len(self.all()):
                raise Refusal("not-found", f"no mute {mute!r}; GET /api/v1/mutes lists them")
            self._keep(kept)

    def _keep(self, mutes: list[Mute]) -> None:
        # Written whole or not at all: a monitor that is killed finds what it had.
        fresh = self._file.with_name(f"{self._file.name}.new")
        fresh.write_text(json.dumps([asdict(one) for one in mutes]), encoding="utf-8")
        os.replace(fresh, self._file)
        self._mutes = mutes

    def _read(self) -> list[Mute]:
        if not self._file.exists():
            return []
        try:
            return [Mute(**one) for one in json.loads(self._file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{self._file} can't be read ({error}): move it away") from error
