"""
Averages that a new attempt begins as plain copies of their model, though they had been apart from it before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.detectors.detector import BoolArray, IntArray
from trainvitals_monitor.detectors.journey import Journey, between
from trainvitals_monitor.detectors.teachers import teachers_of
from trainvitals_monitor.history import View


def averages_lost(view: View, found: Journey, near: float) -> BoolArray:
    """
    Which tensors [n] are of averages that are back at their model: within `near` of the squared distance that they had
    from it when the attempt before ended, over all tensors of the average that were read whole.

    Only of averages that were saved: where none is, to begin as a copy is a choice. And of those that moved at most
    looks: a target that is replaced now and then is a copy each time. Cuts of large tensors lie elsewhere in each, so
    that these can't be compared with their model's.
    """
    lost = np.zeros(view.num_tensors, np.bool_)
    previous, here, teachers = view.previous, view.first_digests(), teachers_of(view)
    if previous is None or here is None or not len(teachers.mine):
        return lost
    end, _ = previous.end.of(view.tensors.fqn)
    mine, its = teachers.mine, teachers.its
    read = (here["count"] == view.tensors.numel) & (end["count"] == view.tensors.numel)
    saved = set(previous.last_save_fqns)
    known = read[mine] & read[its]
    known &= np.array([view.tensors.fqn[index] in saved for index in mine.tolist()], np.bool_)
    with np.errstate(invalid="ignore"):
        known &= (found.pace[mine] > 0) & (found.pace[its] > 0)
    now = between(_at(here, mine), _at(here, its), known)
    before = between(_at(end, mine), _at(end, its), known)
    for root in np.unique(teachers.root[known]).tolist():
        own = teachers.root == root
        if now[own].sum() < near * before[own].sum():
            lost[mine[own]] = True
    return lost


def _at(columns: dict[str, npt.NDArray[Any]], indices: IntArray) -> dict[str, npt.NDArray[Any]]:
    return {name: values[indices] for name, values in columns.items()}
