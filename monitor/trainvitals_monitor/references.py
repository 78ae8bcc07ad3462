"""
Good runs that others are compared with, live: found by name in the monitor's own store, or given to it as frames.

Which steps of a reference count is decided when it is first asked for, and kept with the run that asked: a reference that
goes on training meanwhile, or a restart of the monitor, changes nothing of what was said.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from trainvitals.errors import BadFrame
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.history import Reference
from trainvitals_monitor.recall import recall
from trainvitals_monitor.recording import Recorder, reference_of
from trainvitals_monitor.store import Store

_LOG = logging.getLogger("trainvitals.monitor")


@dataclass(frozen=True)
class Found:
    """A reference, and by attempt the last of its steps that count; none for one that was given as frames."""

    reference: Reference
    through: Mapping[str, int]


class References:
    """The references of a monitor; those in use are kept in memory once. Any thread."""

    def __init__(self, store: Store, standing: str = "", elsewhere: str = "") -> None:
        """
        `standing`: the run that every run is compared with which names no other: a folder of its frames, or its name in
        the store `elsewhere`.

        Raises ValueError, one line, if they can't be read.
        """
        self._store = store
        self._lock = threading.Lock()
        self._kept: WeakValueDictionary[Any, Reference] = WeakValueDictionary()
        self._standing: Reference | None = None
        if standing:
            try:
                self._standing = reference_of(standing, elsewhere)
            except BadFrame as error:
                raise ValueError(f"reference: {error}") from error

    @property
    def usual(self) -> str:
        """Name of the run that is compared with where no other is named, "" for none."""
        return self._standing.run if self._standing else ""

    def find(self, name: str, through: Mapping[str, int] | None = None) -> Found | None:
        """The run of this name, None if there is none; `through`: what counted when it was first found."""
        if self._standing is not None and name == self._standing.run:
            return Found(self._standing, {})
        row = self._store.run(name)
        if row is None:
            return None
        with self._lock:
            kept = None if through is None else self._kept.get(_key(name, through))
            if kept is not None and through is not None:
                return Found(kept, through)
            recorder = Recorder(name, through=through)
            recall(self._store, row["id"], recorder)
            counts = recorder.judged_through if through is None else through
            reference = self._kept.setdefault(_key(name, counts), recorder.reference)
        return Found(reference, counts)


def _key(name: str, through: Mapping[str, int]) -> Any:
    return name, frozenset(through.items())


@dataclass
class Beside:
    """What one live run is compared with. `wanted`: by its latest attempt, "" for nothing; None: nothing so far."""

    run: str
    references: References
    wanted: str | None = None
    _through: Mapping[str, int] = field(default_factory=dict)

    def begin(self, engine: Engine, name: str) -> None:
        """An attempt is about to begin that names this reference, or none. An unknown one is said, and no error."""
        history = engine.history
        wanted = name or self.references.usual
        if wanted == (self.wanted or "") and (history.comparison is not None or not wanted):
            return
        self.wanted, self._through = wanted, {}
        found = self.references.find(wanted) if wanted and wanted != self.run else None
        if found is None:
            history.compare_with_none(wanted)
            if wanted:
                _LOG.warning("run %r: no run %r to compare it with", self.run, wanted)
            return
        self._through = found.through
        history.compare_with(found.reference)

    def document(self, engine: Engine) -> dict[str, Any] | None:
        """What a restart needs; None if there is nothing to compare with."""
        if self.wanted is None:
            return None
        comparison = engine.history.comparison
        known = None if comparison is None else comparison.as_json()
        return {"wanted": self.wanted, "through": dict(self._through), "comparison": known}

    def restore(self, engine: Engine, document: Mapping[str, Any] | None) -> None:
        """As it was, once the run's frames have been given again."""
        if document is None:
            return
        wanted, known = document["wanted"], document["comparison"]
        self.wanted, self._through = wanted, document["through"]
        found = None if known is None else self.references.find(wanted, self._through)
        if found is None:
            engine.history.compare_with_none(wanted)
            return
        comparison = engine.history.compare_with(found.reference)
        comparison.restore(known)
        for attempt in engine.history.attempts:
            if comparison.has_taken(attempt.key) or not attempt.judged_steps:
                attempt.comparison = comparison
