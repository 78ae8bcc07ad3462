"""
What the looks at replicas so far say: since when ranks differ, whether they were ever proven equal, who synchronises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import BoolArray, FloatArray, IntArray
from trainvitals_monitor.detectors.stretch import look_back, stretch_of
from trainvitals_monitor.history import View

WINDOW = 256
RECENT = 16
MIN_LOOKS = 16
FEW_UPDATES = 4.0
"""Two ranks' updates of one step are at most twice as far apart as one is long; the rest is for the estimate."""


@dataclass(frozen=True)
class Parted:
    """Since when each of `tensors` is looked at and wrong: the first step of it, the last good one (-1: none), looks."""

    tensors: IntArray
    first: IntArray
    last_good: IntArray
    looks: IntArray

    def steps(self, view: View) -> IntArray:
        """How long it lasts."""
        made: IntArray = view.step - self.first
        return made


def parted(view: View, tensors: IntArray) -> Parted:
    """The looks since which the bits of these tensors differ between ranks."""
    values, seen = look_back(view, "replicas_apart", WINDOW, tensors)
    return _since(view, tensors, values > 0, seen)


def gradients_apart(view: View, tensors: IntArray, spread: FloatArray) -> Parted:
    """The looks since which the norms of these tensors' gradients differ between ranks."""
    values, seen = look_back(view, "grad_spread", WINDOW, tensors)
    return _since(view, tensors, values > spread, seen)


def _since(view: View, tensors: IntArray, wrong: BoolArray, seen: BoolArray) -> Parted:
    found = stretch_of(wrong, seen, view.window_steps(WINDOW))
    return Parted(tensors, found.first_step, found.last_good_step, found.looks)


def is_drifting(view: View, stretch: Parted) -> bool:
    """
    Whether the tensors that parted got ever further apart, looked at often enough to see them come together.

    Weights that are averaged after the step are never equal at a look: their distance falls, or stays as it is.
    """
    if not len(stretch.tensors):
        return False
    apart, seen = look_back(view, "replica_distance", WINDOW, stretch.tensors)
    inside = view.window_steps(WINDOW) >= stretch.first.min()
    looked = inside & seen.any(axis=1)
    rows = np.flatnonzero(looked)
    if len(rows) < MIN_LOOKS or looked.sum() < 0.75 * inside.sum():
        return False
    distance = np.nanmedian(apart[rows], axis=1)
    highest = np.maximum.accumulate(distance)
    fell = bool((distance < 0.5 * highest).any())
    middle = float(np.median(distance[len(rows) // 2 - 2 : len(rows) // 2 + 3]))
    last = float(np.median(distance[-5:]))
    return not fell and last > 1.1 * middle and last > 2 * float(distance[0])


def were_proven(view: View, stretch: Parted, looks: FloatArray) -> BoolArray:
    """
    Which of the tensors were replicas, though nobody declared it: equal on all ranks at their last so many looks before
    they parted, moving in between, and never unequal before.
    """
    apart, seen = look_back(view, "replicas_apart", WINDOW, stretch.tensors)
    changed, _ = look_back(view, "changed", WINDOW, stretch.tensors)
    before = view.window_steps(WINDOW)[:, None] <= stretch.last_good
    with np.errstate(invalid="ignore"):
        equal = (seen & before & (apart == 0) & (changed > 0)).sum(axis=0)
        unequal = (seen & before & (apart > 0)).any(axis=0)
    proven: BoolArray = (equal >= looks) & ~unequal
    return proven


def have_one_gradient(view: View, tensors: IntArray, looks: FloatArray) -> BoolArray:
    """Whether all ranks step these tensors with gradients of exactly one norm, another one at each look."""
    spread, seen = look_back(view, "grad_spread", RECENT, tensors)
    norm, _ = look_back(view, "grad_norm", RECENT, tensors)
    with np.errstate(invalid="ignore"):
        same = seen & (spread == 0) & (norm > 0)
    counts = np.array([len(np.unique(norm[same[:, k], k])) for k in range(len(tensors))], np.int64)
    shared: BoolArray = (counts >= looks) & (same.sum(axis=0) == seen.sum(axis=0))
    return shared


def is_unsynced(view: View) -> bool:
    """Whether ranks step within DDP's no_sync() of late, at most of the steps of which it is known."""
    _, unsynced, seen = view.by_rank("unsynced", WINDOW)
    known = np.flatnonzero(seen.any(axis=1))[-RECENT:]
    return bool(len(known)) and bool(unsynced[known].any(axis=1).mean() > 0.5)


def are_replicas_otherwise(view: View, looks: float) -> bool:
    """
    Whether every matrix that is trained has been equal on all ranks at so many of the last looks, and moved in between.

    Under tensor, expert or pipeline parallelism some matrices differ, and with them vectors may.
    """
    table = view.tensors
    dims = np.array([len(shape) for shape in table.shape], np.int64)
    trained = view.held & table.is_param & table.trainable & ~table.mask(Role.CODEBOOK)
    matrices = np.flatnonzero(trained & (dims >= 2))
    apart, seen = look_back(view, "replicas_apart", WINDOW, matrices)
    changed, _ = look_back(view, "changed", WINDOW, matrices)
    with np.errstate(invalid="ignore"):
        unequal = (seen & (apart > 0)).any(axis=0)
        equal = (seen & (apart == 0) & (changed > 0)).sum(axis=0)
    return len(matrices) > 1 and not unequal.any() and bool((equal >= looks).all())


def beyond_one_update(view: View, tensors: IntArray) -> BoolArray:
    """Which are further apart than some updates explain: what is sent to all ranks at each forward pass is not."""
    with np.errstate(invalid="ignore", divide="ignore"):
        update = view.latest("update_norm") / view.latest("norm")
        far: BoolArray = (view.now("replica_distance") > FEW_UPDATES * update)[tensors]
    return far
