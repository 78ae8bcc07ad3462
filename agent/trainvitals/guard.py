"""
The one guard between our code and the trainer's: training never fails because of us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from trainvitals.errors import FindingRaised
from trainvitals.frame import ProbeFailed
from trainvitals.meter import Meter
from trainvitals.record import Record
from trainvitals.speech import LOGGER


class Guard:
    """
    Every entry from the trainer goes through `call`: an error is logged once with its traceback, counted and sent as a
    fact, that part is switched off, and training goes on. `off` names the parts that are. `attempt` switches nothing off,
    and `failures` counts what it met. What passes is timed by the `meter`. Without a record, as for what serves the whole
    process, errors are only logged.
    """

    def __init__(
        self, record: Record | None = None, step_now: Callable[[], int] = lambda: 0
    ) -> None:
        self._record = record
        self._step_now = step_now
        self.off: dict[str, str] = {}
        self.failures: Counter[str] = Counter()
        self.meter = Meter()

    def call(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        """The function's result; None if it raised, now or before. FindingRaised passes: it was asked for."""
        if part in self.off:
            return None
        is_outermost = self.meter.enter()
        try:
            return function(*args)
        except FindingRaised:
            raise
        except Exception as error:  # noqa: BLE001  (this is the guard)
            return self._switch_off(part, error)
        finally:
            if is_outermost:
                self.meter.leave()

    def lightly(self, part: str, function: Callable[..., Any], argument: Any) -> Any:
        """As `call`, for what is over in less time than the meter takes: who is called tells that what it took."""
        if part in self.off:
            return None
        try:
            return function(argument)
        except Exception as error:  # noqa: BLE001  (this is the guard)
            return self._switch_off(part, error)

    def attempt(self, part: str, function: Callable[..., Any], *args: Any) -> Any:
        """As `call`, where one bad argument says nothing about the next one: said once, counted, and tried again."""
        is_outermost = self.meter.enter()
        try:
            return function(*args)
        except FindingRaised:
            raise
        except Exception as error:  # noqa: BLE001  (this is the guard)
            self.failures[part] += 1
            if self.failures[part] == 1:
                self._tell(part, error)
                LOGGER.warning(
                    "%s raised and is passed over; training goes on", part, exc_info=True
                )
            return None
        finally:
            if is_outermost:
                self.meter.leave()

    def _switch_off(self, part: str, error: Exception) -> None:
        self.off[part] = self._tell(part, error)
        LOGGER.warning("%s raised and is switched off; training goes on", part, exc_info=True)

    def _tell(self, part: str, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        if self._record is not None:
            self._record.event(ProbeFailed(step=self._step_now(), probe=part, error=text))
        return text
