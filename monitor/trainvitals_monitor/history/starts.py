"""
The states that two runs start from, beside each other: how far apart they are, by digests, norms and sketches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SKETCHES

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_TINY = 1e-4


@dataclass(frozen=True, kw_only=True)
class Start:
    """
    The states that both runs start from, per tensor. `difference`: relative distance of the two, to about 50 % (rms);
    0: the same bits, NaN: not compared. `ratio`: of their norms. `is_random`: neither zero nor constant.
    """

    difference: FloatArray
    ratio: FloatArray
    is_random: BoolArray


def relative(one: FloatArray, other: FloatArray, floor: FloatArray) -> FloatArray:
    """|one - other| over the larger of the two and the floor; NaN where either is, 0 where both are infinite."""
    with np.errstate(all="ignore"):
        size = np.maximum(np.maximum(np.abs(one), np.abs(other)), floor)
        found: FloatArray = np.where(size > 0, np.abs(one - other) / size, 0.0)
        infinite = np.isinf(one) | np.isinf(other)
        found = np.where(infinite, np.where(one == other, 0.0, 1.0), found)
        return np.where(np.isnan(one) | np.isnan(other), np.nan, found)


def compare_starts(own: dict[str, npt.NDArray[Any]], there: dict[str, npt.NDArray[Any]]) -> Start:
    """Two states by their digests, norms and sketches."""
    both = (own["count"] > 0) & (own["count"] == there["count"])
    same = own["digest"] == there["digest"]
    one, other = (np.stack([side[name] for name in SKETCHES]) for side in (own, there))
    with np.errstate(all="ignore"):
        mean = np.fmax(own["square_sum"], there["square_sum"]) / np.maximum(own["count"], 1)
        known = both & (mean > 0)
        # Beside the others' values these are zero, whatever their bits.
        typical = float(np.median(mean[known])) if known.any() else 0.0
        square = np.fmax(mean, _TINY**2 * typical) * own["count"]
        distance = np.sqrt(((one - other) ** 2).mean(axis=0) / square)
        norms = relative(np.sqrt(own["square_sum"]), np.sqrt(there["square_sum"]), np.sqrt(square))
        # Other bits, however near: a difference of 0 is kept for the same ones.
        difference = np.where(same, 0.0, np.fmax(np.fmax(distance, norms), 2.0**-24))
        tiny = _TINY**2 * typical * own["count"]
        ratio = np.sqrt((own["square_sum"] + tiny) / (there["square_sum"] + tiny))
        rms = np.sqrt(there["square_sum"] / there["count"])
        whole = other / rms
        constant = (np.abs(whole - np.round(whole)) < 1e-6).all(axis=0)
    return Start(
        difference=np.where(both, difference, np.nan),
        ratio=np.where(both, ratio, np.nan),
        is_random=both & (there["square_sum"] > 0) & ~constant,
    )
