"""
Where each tensor stands at an attempt's beginning, between where the run began with it and where it was last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SKETCH_SIZE
from trainvitals_monitor.detectors.detector import BoolArray, FloatArray, IntArray
from trainvitals_monitor.history import View

_LITTLE = 1e-6
"""Of a tensor's squared norm: what is less is no way."""


class Journey(NamedTuple):
    """
    Per tensor, squared distances scaled up to all its elements, estimated from sketches; 0 where not `known`.

    `way`: from the run's origin to its last state in the attempt before; `from_end`, `from_origin`: of the state that
    this attempt begins with; `size`: both squared norms, of that state and the last one. `pace`: the usual squared
    update of a step of late (NaN: not looked at), `steps`: how many steps the way took, `growth`: the square of what the
    norm gained on it (exact, not from sketches). `origin`: where it began is known.
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
        way=_between(origin, end, began) * scale,
        from_end=_between(here, end, known) * scale,
        from_origin=_between(here, origin, began) * scale,
        size=np.where(known, here["square_sum"] + end["square_sum"], 0.0) * scale,
        pace=pace,
        steps=end_steps - previous.origin_step,
        growth=(np.sqrt(end["square_sum"]) - np.sqrt(origin["square_sum"])) ** 2 * scale,
    )


def weights_go_on(view: View, found: Journey, share: float) -> bool:
    """
    Whether most parameters that had moved are still near where they were last: within this share of their way.

    A roll-back is not: there all have gone back.
    """
    moved = found.origin & view.tensors.is_param & (found.way > _LITTLE * found.size)
    if not moved.any():
        return False
    with np.errstate(invalid="ignore", divide="ignore"):
        left = found.from_end[moved] / found.way[moved]
    return bool(np.median(left) <= share)


def has_gone(found: Journey) -> BoolArray:
    """Tensors that had come some way from their origin."""
    gone: BoolArray = found.origin & (found.way > _LITTLE * found.size)
    return gone


def _between(
    one: dict[str, npt.NDArray[Any]], other: dict[str, npt.NDArray[Any]], known: BoolArray
) -> FloatArray:
    """The squared distance of two states on their cores; 0 if their digests are equal."""
    apart = np.zeros(len(known))
    for k in range(SKETCH_SIZE):
        apart += (one[f"sketch_{k}"] - other[f"sketch_{k}"]) ** 2 / SKETCH_SIZE
    usable = known & np.isfinite(apart) & (one["digest"] != other["digest"])
    return np.where(usable, apart, 0.0)
