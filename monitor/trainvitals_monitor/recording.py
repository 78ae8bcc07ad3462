"""
Making a reference of a run: its frames, from a folder or a store, through an engine that judges nothing and takes down
what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainvitals.errors import BadFrame
from trainvitals_monitor.detectors.detector import Detector
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.history import Reference, View
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.overrides import Tuning
from trainvitals_monitor.recall import recall
from trainvitals_monitor.replay import replay
from trainvitals_monitor.store import Store
from trainvitals_monitor.store_file import StoreUnusable


class Recorder(Engine):
    """An engine that fills `reference` with what the run shows; `through`: by attempt the last step that counts."""

    def __init__(
        self,
        run: str,
        detectors: Sequence[type[Detector]] = (),
        tuning: Tuning | None = None,
        through: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(run, detectors, tuning)
        self.reference = Reference(run)
        self._through = through

    def _look(self, attempt: AttemptHistory, view: View) -> None:
        super()._look(attempt, view)
        if self._through is None or view.step <= self._through.get(attempt.key, -1):
            self.reference.take(view)


def reference_of(given: str, store: str) -> Reference:
    """
    A good run: a folder of frames, or the name of a run in a store, which another process may be writing.

    Raises BadFrame when it is neither.
    """
    if Path(given).exists():
        return reference_from(Path(given))
    recorder = Recorder(given)
    recall_from(store, recorder)
    return recorder.reference


def recall_from(store: str, engine: Engine) -> None:
    """The engine's run out of a store, into it. Raises BadFrame when there is no such store or run."""
    try:
        stored = Store(store, to_read=True)
    except StoreUnusable as error:
        raise BadFrame(
            f"there is no folder {engine.run!r}, and as the name of a run: {error}"
        ) from error
    try:
        row = stored.run(engine.run)
        if row is None:
            raise BadFrame(
                f"there is no folder {engine.run!r}, and no run of that name in store {store}"
            )
        recall(stored, row["id"], engine)
    finally:
        stored.close()


def reference_from(folder: Path, run: str = "") -> Reference:
    """
    The run in a folder of frames; `run` says which, where there are several.

    Raises BadFrame when there are no frames, a broken one, no such run, or several and none was named.
    """
    engines = replay(folder, (), make=Recorder)
    found = [
        engine.reference
        for engine in engines
        if isinstance(engine, Recorder) and (not run or engine.run == run)
    ]
    if len(found) != 1:
        names = ", ".join(repr(engine.run) for engine in engines)
        asked = f"no run {run!r}" if run else "several runs"
        raise BadFrame(f"{asked} in {folder}, which has {names}: one is needed to compare with")
    return found[0]
