"""
Whether parameters without a gradient lie where a gradient had to pass: before what gets one, by order and shapes.

A cut in the graph leaves what is before it without a gradient. A head, or one branch of several, that is not used has
none either, and nothing is wrong. The graph is not known; registration order and shapes tell the two apart mostly.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np

from trainvitals_monitor.detectors.detector import BoolArray, IntArray
from trainvitals_monitor.history import View


def is_front(view: View, silent: IntArray) -> BoolArray:
    """Per tensor of `silent` [n]: whether it belongs to the unbroken run of them at the model's front."""
    order = _trained(view)
    is_silent = np.isin(order, silent)
    end = len(order) if is_silent.all() else int(np.argmin(is_silent))
    front: BoolArray = np.isin(silent, order[:end] if end < len(order) else order[:0])
    return front


def is_upstream(view: View, silent: IntArray) -> BoolArray:
    """
    Per tensor of `silent` [n]: whether what is registered after its part has gradients and seems to be fed by it.

    A part is an unbroken run of silent parameters in registration order. At the model's front it is upstream; further
    back it must end in as many features as the next parameter takes, and none of its parameters may have a twin by
    name (another expert, adapter or layer) that gets a gradient. At the model's end it is not.
    """
    order = _trained(view)
    is_silent = np.isin(order, silent)
    alive = {view.tensors.pattern[index] for index in order[~is_silent]}
    found: list[int] = []
    start = 0
    for bad, group in groupby(is_silent.tolist()):
        end = start + len(list(group))
        if bad and end < len(order):
            part = order[start:end].tolist()
            twins = any(view.tensors.pattern[index] in alive for index in part)
            if start == 0 or (not twins and _feeds(view, part, int(order[end]))):
                found += part
        start = end
    upstream: BoolArray = np.isin(silent, found)
    return upstream


def _trained(view: View) -> IntArray:
    """Parameters that an optimizer trains, each once, in registration order."""

    def make() -> IntArray:
        table = view.tensors
        mask = table.is_param & table.trainable & view.held & (view.tied_to < 0) & (table.numel > 0)
        chosen = np.flatnonzero(mask)
        ordered: IntArray = chosen[np.argsort(table.order[chosen])]
        return ordered

    return view.cached("upstream", make)


def _feeds(view: View, part: list[int], after: int) -> bool:
    """Whether the last matrix of the part makes as many features as the next parameter takes."""
    shapes = [view.tensors.shape[index] for index in part]
    last = next((shape for shape in reversed(shapes) if len(shape) > 1), shapes[-1])
    taker = view.tensors.shape[after]
    if not last or not taker:
        return False
    taken = taker[1] if len(taker) > 1 else taker[0]
    # What comes out of a convolution is laid out flat before a linear layer.
    return taken == last[0] or (len(last) > 2 and len(taker) == 2 and taken % last[0] == 0)
