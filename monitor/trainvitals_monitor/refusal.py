"""
A request that the monitor will not serve: the status, a short reason to count it by, and what to do about it.

Every answer of 400 and above is made from one of these, so that they all read alike.
"""

from __future__ import annotations


class Refusal(Exception):
    """
    Why a request is refused. `reason` is one of REASONS (it becomes a metric's label); `detail` is for its sender.
    """

    def __init__(self, reason: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status that goes with the reason."""
        return REASONS[self.reason]


REASONS = {
    "malformed": 400,
    "wrong-host": 400,
    "unauthorized": 401,
    "foreign-form": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "conflict": 409,
    "too-large": 413,
    "wrong-encoding": 415,
    "wrong-type": 415,
    "wrong-version": 422,
    "invalid-header": 422,
    "invalid-columns": 422,
    "invalid-query": 422,
    "invalid-run-name": 422,
    "over-limit": 422,
    "busy": 429,
    "unavailable": 503,
}
"""Reason -> status."""
FRAME_REASONS = tuple(
    reason
    for reason in REASONS
    if reason not in ("not-found", "method-not-allowed", "invalid-query", "foreign-form")
)
"""Those for which a frame may be refused: a metric's label, so the list is closed."""
