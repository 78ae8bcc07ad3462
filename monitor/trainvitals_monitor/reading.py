"""
One series out of the store: from the tier that was asked for, and from its neighbours where that has nothing.

Older steps may be left in a coarser tier only, and the newest are not in a coarse one yet: see tiers.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals_monitor.store import Store
from trainvitals_monitor.stored_chunks import by_layout
from trainvitals_monitor.tiers import FACTOR, HIGH, LOW, TIERS, Thinned, joined, kind_of, span
from trainvitals_monitor.unpacking import unpack_record


class Place(NamedTuple):
    """Where a series rests, and which of the record's statistics it is."""

    attempt_id: int
    kind: str
    tile: int
    record: int
    stat: str


def tier_for(steps: int, points: int) -> int:
    """How many steps a point must stand for, so that there are at most so many points: a power of 16."""
    every = 1
    while steps > points * every:
        every *= FACTOR
    return every


def read(store: Store, place: Place, first: int, last: int, every: int) -> Thinned:
    """
    The series over these steps, each as fine as it is there but no finer than `every`; entries are not evened out.

    Cost: half a millisecond for 20 chunks of 128 entries.
    """
    every = min(every, TIERS[-1])
    found = _found(store, place, first, last, every)
    parts = [
        *_older(store, place, first, found.begin - 1, every),
        *found.entries,
        *_newer(store, place, found.end, last, every),
    ]
    whole = joined(parts) if parts else Thinned(np.empty(0, np.int64), *[np.empty(0)] * 3)
    return whole.part((whole.steps >= first) & (whole.steps <= last))


class _Found(NamedTuple):
    """What a tier has, and the steps that its chunks are about."""

    begin: int
    end: int
    entries: list[Thinned]


def _older(store: Store, place: Place, first: int, last: int, every: int) -> list[Thinned]:
    """Steps that this tier has nothing of any more, as far as coarser ones have."""
    if every == TIERS[-1] or first > last:
        return []
    found = _found(store, place, first, last, every * FACTOR)
    mine = [entries.part(entries.steps <= last) for entries in found.entries]
    return [*_older(store, place, first, found.begin - 1, every * FACTOR), *mine]


def _newer(store: Store, place: Place, first: int, last: int, every: int) -> list[Thinned]:
    """Steps that this tier has nothing of yet."""
    if every == 1 or first > last:
        return []
    every //= FACTOR
    found = _found(store, place, first, last, every)
    mine = [entries.part(entries.steps >= first) for entries in found.entries]
    return [*mine, *_newer(store, place, found.end, last, every)]


def _found(store: Store, place: Place, first: int, last: int, every: int) -> _Found:
    """The chunks that overlap these steps: those of one layout, which is most of them, are unpacked together."""
    rows = store.chunks(place.attempt_id, kind_of(place.kind, every), place.tile, first, last)
    if not rows:
        return _Found(last + 1, first, [])
    entries = [_entries(place, layout, alike) for layout, alike in by_layout(rows)]
    return _Found(rows[0].first_step, rows[-1].first_step + span(every), entries)


def _entries(place: Place, layout: str, chunks: list[tuple[int, bytes]]) -> Thinned:
    names = (place.stat, place.stat + LOW, place.stat + HIGH)
    whole, low, high = unpack_record(layout, chunks, place.record, names)
    if not len(low[0]):  # of single steps
        low = high = whole
    return Thinned(*whole, low[1], high[1])
