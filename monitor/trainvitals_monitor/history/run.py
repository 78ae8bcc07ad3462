"""
A run: its attempts one after another, and what each leaves to the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainvitals.frame import Header
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.history.comparison import Comparison
from trainvitals_monitor.history.lasting import Lasting
from trainvitals_monitor.history.left import left_by
from trainvitals_monitor.history.rank import Tables
from trainvitals_monitor.history.reference import Reference

KEPT_ATTEMPTS = 2
"""Attempts whose windows are kept in memory: the latest ones."""
_ATTEMPT_BYTES = 1 << 20
_TENSOR_BYTES = 1024
_PART_BYTES = 384
"""As measured, beside the window; a part is what one rank says of a tensor, in the rows of two steps for the most."""


class RunHistory:
    """All that is kept in memory of a run; attempts are ordered by the time at which they started."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._attempts: dict[str, AttemptHistory] = {}
        self._gone: set[str] = set()
        self._lasting: dict[str, Lasting] = {}
        self._floors: dict[str, dict[int, int]] = {}
        self.attempts_seen = 0
        self.comparison: Comparison | None = None
        self.unknown_reference = ""
        """Name of a run that this one was to be compared with, and that is not known."""

    def compare_with(self, reference: Reference) -> Comparison:
        """Show views of attempts that begin from now on what the reference had at the same step."""
        self.comparison = Comparison(reference)
        self.unknown_reference = ""
        return self.comparison

    def compare_with_none(self, unknown: str = "") -> None:
        """Attempts that begin from now on have no reference; `unknown`: they were to have this one."""
        self.comparison, self.unknown_reference = None, unknown

    def restore(self, key: str, lasting: bytes | None) -> None:
        """What the store kept of an attempt's forgotten steps, if it forgot any; before its frames are given again."""
        if lasting is not None:
            self._lasting[key] = Lasting(lasting)

    def forgot(self, key: str, floors: Mapping[int, int]) -> None:
        """Frames of an attempt that will not be given again, nor come: by rank, those below this number."""
        self._floors.setdefault(key, {}).update(floors)
        if key in self._attempts:
            self._attempts[key].ranks.forgot(floors)

    @property
    def attempts(self) -> list[AttemptHistory]:
        """The attempts that are kept, oldest first."""
        return sorted(self._attempts.values(), key=lambda one: (one.started_at, one.key))

    @property
    def num_bytes(self) -> int:
        """About what the run takes in memory."""
        return sum(
            _ATTEMPT_BYTES
            + one.window.num_bytes
            + _TENSOR_BYTES * len(one.tensors)
            + _PART_BYTES * sum(len(rank.named) for rank in one.ranks.values())
            for one in self._attempts.values()
        )

    @property
    def current(self) -> AttemptHistory | None:
        """The latest attempt, None before the first frame."""
        attempts = self.attempts
        return attempts[-1] if attempts else None

    def get(self, key: str) -> AttemptHistory | None:
        """The attempt of this key, if it is kept."""
        return self._attempts.get(key)

    def is_gone(self, key: str) -> bool:
        """Whether this attempt was known and has been let go: what still comes of it is not used."""
        return key in self._gone

    def check(self, header: Header, tables: Tables) -> bool:
        """Whether the frame is new; changes nothing. Raises BadFrame or RunConflict."""
        attempt = self._attempts.get(header.attempt)
        return attempt is None or attempt.check(header, tables)

    def ingest(self, header: Header, tables: Tables) -> AttemptHistory | None:
        """Takes a frame; the attempt that it belongs to, None if it is of no use (a duplicate, or far too old)."""
        if header.attempt in self._gone:
            return None
        attempt = self._attempts.get(header.attempt)
        if attempt is None:
            attempt = self._attempts[header.attempt] = AttemptHistory(header)
            attempt.ranks.forgot(self._floors.get(header.attempt, {}))
            attempt.comparison = self.comparison
            attempt.lasting = self._lasting.pop(header.attempt, None)
            self.attempts_seen += 1
        return attempt if attempt.ingest(header, tables) else None

    def before(self, attempt: AttemptHistory) -> list[AttemptHistory]:
        """The attempts before this one, oldest first."""
        attempts = self.attempts
        return attempts[: attempts.index(attempt)]

    def begin(self, attempt: AttemptHistory) -> None:
        """The attempt's first step is about to be judged: those before it have been; take over what they left."""
        before = self.before(attempt)
        if before and attempt.previous is None:
            attempt.previous = left_by(before[-1])
        for old in before[:-1]:
            if len(self._attempts) > KEPT_ATTEMPTS:
                del self._attempts[old.key]
                self._gone.add(old.key)
