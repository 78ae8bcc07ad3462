"""
What live tensors were at earlier moments, so that an entry of a save can be recognised as an old one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HISTORY = 16
"""Older looks that are remembered, beside the attempt's first one."""


class _Moment(NamedTuple):
    """Digests by tensor index; `known` where one was taken."""

    step: int
    digests: npt.NDArray[np.uint64]
    known: npt.NDArray[np.bool_]


class Remembered:
    """
    The live digests at the attempt's beginning and at the last saves and loads, in each dtype that was saved.

    9 bytes per tensor and moment.
    """

    def __init__(self) -> None:
        self._first: list[_Moment] = []
        self._later: deque[_Moment] = deque(maxlen=HISTORY)

    def add(
        self,
        step: int,
        indices: Sequence[int],
        digests: npt.NDArray[np.uint64],
        counts: npt.NDArray[np.int64],
        *,
        first: bool = False,
    ) -> None:
        """What was seen now of these tensors, not of those with count 0; `first` ones are kept for good."""
        where = np.asarray(indices, np.int64)[counts > 0]
        if not len(where):
            return
        size = int(where.max()) + 1
        moment = _Moment(step, np.zeros(size, np.uint64), np.zeros(size, np.bool_))
        moment.digests[where] = digests[counts > 0]
        moment.known[where] = True
        (self._first if first else self._later).append(moment)

    def steps_of(
        self, indices: Sequence[int], digests: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """The latest remembered step at which each tensor had this digest; -1: none."""
        where = np.asarray(indices, np.int64)
        steps = np.full(len(where), -1, np.int64)
        for moment in (*self._first, *self._later):  # later ones overwrite
            inside = where < len(moment.known)
            hit = np.zeros(len(where), np.bool_)
            there = where[inside]
            hit[inside] = moment.known[there] & (moment.digests[there] == digests[inside])
            steps[hit] = moment.step
        return steps
