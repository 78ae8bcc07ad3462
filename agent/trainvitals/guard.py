"""
The one guard between our code and the trainer's: training never fails because of us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainvitals.errors import FindingRaised
from trainvitals.frame import ProbeFailed
from trainvitals.record import Record
from trainvitals.speech import LOGGER


class Guard:
    """
    Every entry from the trainer goes through `call`: an error is logged once with its traceback, counted and sent as a
    fact, that part is switched off, and training goes on. `off` names the parts that are.
    """

    def __init__(self, record: Record, step_now: Callable[[], int]) -> None:
        self._record = record
        self._step_now = step_now
        self.off: dict[str, str] = {}

    def call(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result; None if it raised, now or before. FindingRaised passes: it was asked for."""
        if part in self.off:
            return None
        try:
            return function(*args)
        except FindingRaised:
            raise
        except Exception as error:  # noqa: BLE001  (this is the guard)
            self.off[part] = f"{type(error).__name__}: {error}"
            self._record.event(ProbeFailed(step=self._step_now(), probe=part, error=self.off[part]))
            LOGGER.warning("%s raised and is switched off; training goes on", part, exc_info=True)
            return None
