"""
Whether the slots still hold what they held: objects, storages, dtypes, devices, shapes, requires_grad.
"""

from __future__ import annotations

from trainvitals.frame import SlotChanged
from trainvitals.probes.probe import Look, Probe
from trainvitals.slots import SlotTable

SHOWN_IN_A_ROW = 3
REPEAT_STEPS = 32


class Identity(Probe):
    """
    One event per changed slot, and the slot's new row of the tensor table.

    A buffer that is re-assigned at every step would flood the wire: after 3 equal changes of one slot, only one in 32
    steps is reported, so that the monitor still sees that it goes on.
    """

    name = "identity"
    kind = "identity"

    def __init__(self) -> None:
        self._repeats: dict[int, _Repeat] = {}
        self._tied: dict[int, int] | None = None

    def after_step(self, look: Look) -> None:
        """Compare the chosen slots with the last look; look for slots anew when it is time, or when one is empty."""
        slots = look.slots
        if self._tied is None:
            self._tied = _ties(slots)
        renamed: list[int] = []
        if look.choice.walk:
            events, renamed = slots.walk(look.step), slots.renamed
        else:
            events = slots.check(look.choice.identity, look.step)
            if any("lost" in event.changes for event in events):
                events, renamed = events + slots.walk(look.step), slots.renamed
        shown = [event for event in events if self._is_news(event)]
        for event in shown:
            look.record.event(event)
        for index in sorted(
            {*renamed, *(event.tensor for event in shown), *self._retied(events, slots)}
        ):
            look.record.tensor(slots.info(index))

    def _is_news(self, event: SlotChanged) -> bool:
        repeat = self._repeats.get(event.tensor)
        if repeat is None or repeat.what != _what(event):
            repeat = self._repeats[event.tensor] = _Repeat(_what(event))
        return repeat.is_shown(event.step)

    def _retied(self, events: list[SlotChanged], slots: SlotTable) -> list[int]:
        """Tensors whose tie was made or broken: the other end of it did not change by itself."""
        if not events:
            return []
        known = self._tied or {}
        ends = {*known, *known.values(), *(event.tensor for event in events)}
        now = {index: tied for index in ends if (tied := slots.tied_to(index)) >= 0}
        changed = [index for index in ends if now.get(index, -1) != known.get(index, -1)]
        self._tied = now
        return changed


class _Repeat:
    """The same change of one slot, again and again."""

    def __init__(self, what: tuple[list[str], int]) -> None:
        self.what = what
        self._shown = 0
        self._last_shown = 0

    def is_shown(self, step: int) -> bool:
        if self._shown >= SHOWN_IN_A_ROW and step - self._last_shown < REPEAT_STEPS:
            return False
        self._shown += 1
        self._last_shown = step
        return True


def _what(event: SlotChanged) -> tuple[list[str], int]:
    return event.changes, event.outlived


def _ties(slots: SlotTable) -> dict[int, int]:
    return {index: tied for index in range(len(slots)) if (tied := slots.tied_to(index)) >= 0}
