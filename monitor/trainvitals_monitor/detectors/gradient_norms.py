"""
The norms of all gradients at the steps at which all of them were looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals_monitor.detectors.detector import FloatArray, IntArray
from trainvitals_monitor.history import View


class GradientNorms(NamedTuple):
    """`tensors` [n]: parameters that an optimizer holds, each once; `steps` [k]; `norms` [k, n]; `total` [k]."""

    tensors: IntArray
    steps: IntArray
    norms: FloatArray
    total: FloatArray


def gradient_norms(
    view: View, looks: int, window: int, at_most: int | None = None
) -> GradientNorms | None:
    """
    The last `looks` steps with all of them, this one included, or up to `at_most` if there are more; None if there are
    fewer within the window.
    """
    tensors = _held(view)
    if not len(tensors) or not view.seen("grad_norm")[tensors].all():
        return None
    values, seen = view.window("grad_norm", window)
    rows = np.flatnonzero(seen[:, tensors].all(axis=1))[-(at_most or looks) :]
    norms = values[rows][:, tensors]
    if len(rows) < looks or not np.isfinite(norms).all():
        return None
    total = np.sqrt((norms**2).sum(axis=1))
    return GradientNorms(tensors, view.window_steps(window)[rows], norms, total)


def norm_now(view: View) -> float:
    """The norm of those looked at in this step, together; a tenth of the cost of all looks, to ask first."""
    tensors = _held(view)
    norms, seen = view.now("grad_norm")[tensors], view.seen("grad_norm")[tensors]
    norms = norms if seen.all() else norms[seen]
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.dot(norms, norms)))


def _held(view: View) -> IntArray:
    return view.cached("gradient norms", lambda: _which(view))


def _which(view: View) -> IntArray:
    mask = view.held & view.tensors.is_param & view.tensors.trainable & (view.tied_to < 0)
    return np.flatnonzero(mask)
