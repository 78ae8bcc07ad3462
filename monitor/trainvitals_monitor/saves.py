"""
Which checkpoints of a run are clean: the one to go back to is the last good save before a fault began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainvitals_monitor.history import Checkpoint

MAX_SAVES = 256


@dataclass
class _Save:
    attempt: str
    step: int
    path: str


Span = tuple[str, int, int]
"""An attempt, the first of its steps that is meant, and the last."""


class Saves:
    """The saves of a model's state that were seen in the run, oldest first; the last MAX_SAVES."""

    def __init__(self) -> None:
        self._saves: deque[_Save] = deque(maxlen=MAX_SAVES)

    def saw(self, attempt: str, checkpoints: Iterable[Checkpoint]) -> None:
        """Checkpoints that were presented to the detectors."""
        for one in checkpoints:
            if one.op == "save" and one.is_model and not one.failed:
                self._saves.append(_Save(attempt, one.step, one.path))

    def last_clean(
        self,
        attempt: str,
        first_step: int,
        offsets: Mapping[str, int | None],
        suspect: Sequence[Span] = (),
    ) -> str:
        """
        The last clean save before the first wrong step, as "path (step n)"; "" if none was seen.

        `suspect`: stretches of steps in which saves were found to be wrong.
        """
        for save in reversed(self._saves):
            before = save.attempt != attempt or save.step < first_step
            if before and not _within(save, suspect) and self._not_later(save, attempt):
                step = f"step {save.step + (offsets.get(save.attempt) or 0)}"
                return f"{save.path} ({step})" if save.path else step
        return ""

    def _not_later(self, save: _Save, attempt: str) -> bool:
        """Whether the save belongs to this attempt or one before it."""
        seen = list(dict.fromkeys(one.attempt for one in self._saves))
        return attempt not in seen or seen.index(save.attempt) <= seen.index(attempt)


def _within(save: _Save, spans: Sequence[Span]) -> bool:
    return any(
        save.attempt == attempt and first <= save.step <= last for attempt, first, last in spans
    )
