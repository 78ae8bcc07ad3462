"""
Whether parameters without a gradient lie where a gradient had to pass: before what gets one, by order and shapes.

A cut in the graph leaves what is before it without a gradient. A head, or one branch of several, that is not used has
none either, and nothing is wrong. The graph is not known; registration order and shapes tell the two apart mostly.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np

from trainvitals.roles import Role
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

    A part is an unbroken run of silent parameters in registration order. It must end in as many features as the next
    parameter takes: a tower in front of the model that this training does not use seldom does. Further back than the
    front, none of its parameters may have a twin by name (another expert, adapter or layer) that gets a gradient. At
    the model's end it is not upstream.
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
            if (start == 0 or not twins) and _feeds(view, part, int(order[end])):
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
    """Whether the last matrix of the part makes as many features as the next parameter takes; embeddings take none."""
    shapes, taker = view.tensors.shape, view.tensors.shape[after]
    last = next((index for index in reversed(part) if len(shapes[index]) > 1), part[-1])
    if not shapes[last] or not taker or view.tensors.role[after] is Role.EMBEDDING:
        return False
    taken = taker[1] if len(taker) > 1 else taker[0]
    made = _made(shapes[last], view.tensors.role[last])
    # What comes out of a convolution is laid out flat before a linear layer.
    flat = len(shapes[last]) > 2 and len(taker) == 2 and taken % shapes[last][0] == 0
    return taken in made or flat


def _made(shape: tuple[int, ...], role: Role) -> set[int]:
    """How many features may come out of a parameter of this shape."""
    if len(shape) != 2:
        return {shape[0]}
    rows, columns = shape
    if role is Role.EMBEDDING:
        return {columns}
    # A recurrent layer's matrices have all gates' rows, and both directions are put side by side.
    recurrent = {columns, 2 * columns} if rows in (3 * columns, 4 * columns) else set()
    return {rows} | recurrent
