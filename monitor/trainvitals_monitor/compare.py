"""
A run beside its reference, told as a whole: how they could be compared, and where they first part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainvitals.errors import BadFrame
from trainvitals_monitor.detectors.differs_from_reference import DiffersFromReference
from trainvitals_monitor.detectors.reference_claims import mode_of
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.history import Comparison, Reference
from trainvitals_monitor.recording import recall_from, reference_of
from trainvitals_monitor.replay import findings_json, replay


@dataclass(frozen=True, kw_only=True)
class Compared:
    """
    `mode`: "bit-exact", "close" or "statistical", as the steps before the first parting (else all) could be compared;
    "nothing" if there was nothing to compare. `findings` are of differs-from-reference alone, first first.
    """

    run: str
    reference: str
    mode: str
    steps: int
    equal_steps: int
    largest_difference: float
    findings: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """What `compare --json` prints."""
        return {**vars(self)}


def compare(run: str | Path, reference: str | Path, store: str = "") -> Compared:
    """
    Two runs, each a folder of frames or the name of a run in a store.

    Raises BadFrame when a folder has no frames, a broken one, or several runs, or the store no such run.
    """
    known = reference_of(str(reference), store)
    if not Path(run).exists():
        engine = Engine(str(run), (DiffersFromReference,))
        engine.history.compare_with(known)
        recall_from(store, engine)
        return told(engine, known)
    engines = replay(Path(run), (DiffersFromReference,), reference=known)
    if len(engines) != 1:
        names = ", ".join(repr(engine.run) for engine in engines)
        raise BadFrame(f"several runs in {run}: {names}; give the folder of one")
    return told(engines[0], known)


def told(engine: Engine, reference: Reference) -> Compared:
    """What an engine that has seen the whole run beside its reference found."""
    comparison = engine.history.comparison or Comparison(reference)
    steps = max(comparison.num_steps - 1, 0)
    mode = "nothing" if not steps else mode_of(comparison.largest)
    found = sorted(findings_json([engine]), key=lambda one: int(one["first_step"]))
    parted = next((row["mode"] for one in found for row in one["evidence"] if _is_mode(row)), mode)
    return Compared(
        run=engine.run,
        reference=comparison.reference.run,
        mode=str(parted),
        steps=steps,
        equal_steps=max(comparison.num_equal - 1, 0),
        largest_difference=comparison.largest if steps else 0.0,
        findings=found,
    )


def _is_mode(row: dict[str, Any]) -> bool:
    return row.get("mode") in ("bit-exact", "close")
