"""
One series out of the store: from the tier that was asked for, and from its neighbours where that has nothing.

Older steps may be left in a coarser tier only, and the newest are not in a coarse one yet: see tiers.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals_monitor.chunks import unpack_record
from trainvitals_monitor.store import Store
from trainvitals_monitor.tiers import FACTOR, HIGH, LOW, TIERS, Thinned, joined, kind_of, span


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

    Cost: 20 us for 128 entries.
    """
    every = min(every, TIERS[-1])
    rows = _chunks(store, place, first, last, every)
    begin = rows[0].first_step if rows else last + 1
    end = rows[-1].first_step + span(every) if rows else first
    parts = [*_older(store, place, first, begin - 1, every), *(row.entries for row in rows)]
    parts += _newer(store, place, end, last, every)
    whole = joined(parts) if parts else Thinned(np.empty(0, np.int64), *[np.empty(0)] * 3)
    return whole.part((whole.steps >= first) & (whole.steps <= last))


class _Chunk(NamedTuple):
    first_step: int
    entries: Thinned


def _older(store: Store, place: Place, first: int, last: int, every: int) -> list[Thinned]:
    """Steps that this tier has nothing of any more, as far as coarser ones have."""
    if every == TIERS[-1] or first > last:
        return []
    rows = _chunks(store, place, first, last, every * FACTOR)
    begin = rows[0].first_step if rows else last + 1
    mine = [row.entries.part(row.entries.steps <= last) for row in rows]
    return [*_older(store, place, first, begin - 1, every * FACTOR), *mine]


def _newer(store: Store, place: Place, first: int, last: int, every: int) -> list[Thinned]:
    """Steps that this tier has nothing of yet."""
    if every == 1 or first > last:
        return []
    every //= FACTOR
    rows = _chunks(store, place, first, last, every)
    end = max(first, rows[-1].first_step + span(every)) if rows else first
    mine = [row.entries.part(row.entries.steps >= first) for row in rows]
    return [*mine, *_newer(store, place, end, last, every)]


def _chunks(store: Store, place: Place, first: int, last: int, every: int) -> list[_Chunk]:
    kind = kind_of(place.kind, every)
    return [
        _Chunk(row["first_step"], _entries(place, row["first_step"], row["layout"], row["blob"]))
        for row in store.chunks(place.attempt_id, kind, place.tile, first, last)
    ]


def _entries(place: Place, first_step: int, layout: str, blob: bytes) -> Thinned:
    names = (place.stat, place.stat + LOW, place.stat + HIGH)
    whole, low, high = unpack_record(first_step, layout, blob, place.record, names)
    if not len(low[0]):  # of single steps
        low = high = whole
    return Thinned(*whole, low[1], high[1])
