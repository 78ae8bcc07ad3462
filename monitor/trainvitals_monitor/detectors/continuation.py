"""
Whether an attempt goes on from the weights that an earlier one saved.
"""

from __future__ import annotations

import numpy as np

from trainvitals_monitor.history import View, sketch_of

_MIN_ELEMENTS = 16
_RELATED = 0.1
"""Squared distance over the sum of both squared norms: some steps of training are below, two initialisations at 1."""


def goes_on_from_last_save(view: View) -> bool:
    """
    Whether most matrices begin close to what the last save of the attempt before holds; False if that is not known.

    Vectors are left out: norms at 1 and biases at 0 are alike in any two models.
    """
    previous, columns, start = view.previous, view.first_digests(), view.first_digests_step
    if previous is None or previous.last_save is None or columns is None or start is None:
        return False
    save = previous.last_save
    if start > view.base_step + 1 or not save.rows:
        return False
    found = [view.tensors.index_of(fqn) if fqn else None for fqn in previous.last_save_fqns]
    pairs = [
        (entry, index)
        for entry, index in enumerate(found)
        if index is not None and index < len(columns["count"]) and _is_matrix(view, index)
    ]
    if not pairs:
        return False
    entries, indices = np.array(pairs, np.int64).T
    counts = save.rows["count"][entries]
    known = (counts == columns["count"][indices]) & (counts >= _MIN_ELEMENTS)
    live = sketch_of(columns, indices)
    distance = ((live - save.sketch(entries)) ** 2).mean(axis=1)
    size = save.rows["square_sum"][entries] + columns["square_sum"][indices]
    known &= (size > 0) & np.isfinite(distance)
    return bool(known.any()) and bool((distance < _RELATED * size)[known].mean() > 0.5)


def _is_matrix(view: View, index: int) -> bool:
    return len(view.tensors.shape[index]) >= 2 and bool(view.tensors.is_param[index])
