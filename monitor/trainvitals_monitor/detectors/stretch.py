"""
Looking back: the past of some tensors, and how long a condition has held of them up to now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals_monitor.detectors.detector import BoolArray, FloatArray, IntArray
from trainvitals_monitor.history import View


class Stretch(NamedTuple):
    """
    Per tensor, the unbroken stretch of bad looks that ends with the window.

    `inside` [k, n]: the looks in it; `looks` [n]: how many; `first_step` [n]: the step of the first (-1: none);
    `last_good_step` [n]: the step of the last good look before it (-1: none in the window).
    """

    inside: BoolArray
    looks: IntArray
    first_step: IntArray
    last_good_step: IntArray


def look_back(
    view: View, stat: str, length: int, tensors: IntArray
) -> tuple[FloatArray, BoolArray]:
    """`View.window` of some tensors: values and seen, [k, len(tensors)], copies."""
    values, seen = view.window(stat, length)
    past: FloatArray = values[:, tensors]
    looked: BoolArray = seen[:, tensors]
    return past, looked


def looks_before(seen: BoolArray) -> IntArray:
    """Of [k, n]: the row of each tensor's last look before each row, -1 where there is none."""
    rows = np.where(seen, np.arange(len(seen))[:, None], -1)
    before = np.full(seen.shape, -1, np.int64)
    before[1:] = np.maximum.accumulate(rows, axis=0)[:-1]
    return before


def stretch_of(bad: BoolArray, seen: BoolArray, steps: IntArray) -> Stretch:
    """The stretch of looks ([k, n], oldest first) at which `bad` held; looks that were not made break nothing."""
    rows = np.arange(len(steps))[:, None]
    last_good = np.where(seen & ~bad, rows, -1).max(axis=0, initial=-1)
    inside = seen & bad & (rows > last_good)
    looks = inside.sum(axis=0)
    first_step = np.where(looks > 0, steps[inside.argmax(axis=0)], -1) if len(steps) else looks - 1
    good_step = np.where(last_good >= 0, steps[last_good], -1) if len(steps) else looks - 1
    return Stretch(inside, looks, first_step, good_step)
