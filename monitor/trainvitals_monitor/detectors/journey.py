"""
Where each tensor stands at an attempt's beginning, between where the run began with it and where it was last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SKETCH_SIZE, SKETCHES
from trainvitals_monitor.detectors.detector import BoolArray, FloatArray, IntArray
from trainvitals_monitor.history import View
from trainvitals_monitor.history.traces import Traces

_LITTLE = 1e-6
"""Of a tensor's squared norm: what is less is no way."""


class Journey(NamedTuple):
    """
    Per tensor, squared distances scaled up to all its elements, estimated from sketches; 0 where not `known`.

    `way`: from the run's origin to its last state in the attempt before; `from_end`, `from_origin`: of the state that
    this attempt begins with; `size`: both squared norms, of that state and the last one. `pace`: the usual squared
    update of a step of late (NaN: not looked at), `steps`: how many steps the way took, `growth`: the square of what the
    norm gained on it (exact, not from sketches). `origin`: where it began is known. `end_steps`: the steps of the last
    states.
    """

    known: BoolArray
    origin: BoolArray
    way: FloatArray
    from_end: FloatArray
    from_origin: FloatArray
    size: FloatArray
    pace: FloatArray
    steps: IntArray
    growth: FloatArray
    end_steps: IntArray


def journey(view: View) -> Journey | None:
    """None if there was no attempt before this one, or nothing was read of its state or of this one's first."""
    previous, here, start = view.previous, view.first_digests(), view.first_digests_step
    if previous is None or here is None or start is None or start > view.base_step + 1:
        return None
    if not len(previous.end):
        return None
    fqns = view.tensors.fqn
    origin, _ = previous.origin.of(fqns)
    end, end_steps = previous.end.of(fqns)
    known = (here["count"] > 0) & (here["count"] == end["count"])
    began = known & (here["count"] == origin["count"])
    scale = view.tensors.numel / np.maximum(here["count"], 1)
    pace = np.array([previous.pace.get(fqn, np.nan) for fqn in fqns], np.float64) ** 2
    return Journey(
        known=known,
        origin=began,
        way=between(origin, end, began) * scale,
        from_end=between(here, end, known) * scale,
        from_origin=between(here, origin, began) * scale,
        size=np.where(known, here["square_sum"] + end["square_sum"], 0.0) * scale,
        pace=pace,
        steps=end_steps - previous.origin_step,
        growth=_growth(origin, end) * scale,
        end_steps=end_steps,
    )


def weights_go_on(view: View, found: Journey, share: float, steps: float) -> bool:
    """
    Whether most parameters that had moved are still where they were last: within this share of their way, and within
    what so many of their usual steps explain.

    A roll-back is not: there all have gone back, to an earlier save if one was seen.
    """
    moved = has_gone(found) & view.tensors.is_param & (found.pace > 0)
    trained = moved & view.held  # averages of them may be what was lost
    moved = trained if trained.any() else moved
    if not moved.any():
        return False
    left = found.from_end[moved] / found.way[moved]
    away = found.from_end[moved] / found.pace[moved]
    near = bool(np.median(left) <= share) and bool(np.median(away) <= steps**2)
    return near and not is_nearer_to_another_save(view, moved)


def is_nearer_to_another_save(view: View, judged: BoolArray) -> bool:
    """Whether an earlier save explains most of these tensors better than the last one does."""
    previous, here = view.previous, view.first_digests()
    if previous is None or here is None:
        return False
    fqns = {index: fqn for fqn, index in previous.tensors.items()}
    distances = []
    for save in previous.last_checkpoints:
        if save.op == "save" and save.is_model and save.rows and not (save.failed or save.foreign):
            names = [fqns.get(index, "") for index in save.tensors.tolist()]
            true = save.rows["digest"] == save.rows["live_digest"]
            steps = np.where((save.tensors >= 0) & true, save.step, -1)
            saved, _ = Traces(names, save.rows, steps).of(view.tensors.fqn)
            known = judged & (saved["count"] > 0) & (saved["count"] == here["count"])
            distances.append(np.where(known, between(saved, here, known), np.nan))
    if len(distances) < 2:
        return False
    *earlier, last = distances
    with np.errstate(invalid="ignore"):
        return any(
            2 * int((each < last).sum()) > int((np.isfinite(each) & np.isfinite(last)).sum())
            for each in earlier
        )


def _growth(origin: dict[str, npt.NDArray[Any]], end: dict[str, npt.NDArray[Any]]) -> FloatArray:
    """Squared differences of the norms."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: FloatArray = (np.sqrt(end["square_sum"]) - np.sqrt(origin["square_sum"])) ** 2
    return found


def has_gone(found: Journey) -> BoolArray:
    """Tensors that had come some way from their origin."""
    gone: BoolArray = found.origin & (found.way > _LITTLE * found.size)
    return gone


def between(
    one: dict[str, npt.NDArray[Any]], other: dict[str, npt.NDArray[Any]], known: BoolArray
) -> FloatArray:
    """The squared distance of two states on their cores; 0 if their digests are equal."""
    apart = np.zeros(len(known))
    with np.errstate(invalid="ignore", over="ignore"):  # a mask of -inf in both
        for name in SKETCHES:
            apart += (one[name] - other[name]) ** 2 / SKETCH_SIZE
    usable = known & np.isfinite(apart) & (one["digest"] != other["digest"])
    return np.where(usable, apart, 0.0)
