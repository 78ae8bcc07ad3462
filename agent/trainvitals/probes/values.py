"""
What tensors hold after the step: norms, elements that are not finite, and the range of the watched ones.

`Values` reads cores (small tensors whole), `Sweeps` every element of the large ones whose turn it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainvitals.probes.probe import Look, Probe
from trainvitals.roles import WATCHED, role_of
from trainvitals.slots import SlotTable
from trainvitals.sweep import can_extremes, extremes, nonfinite_counts, norms, were_read


class Values(Probe):
    """
    Norm and non-finite elements from the cores: exact for tensors that are cut whole, scaled up for the others.

    A large tensor with a non-finite element in its cores is swept at once, so that the count is the true one.
    """

    name = "values"
    kind = "cores"

    def __init__(self) -> None:
        self._ranged = _Ranged()
        self._swept = np.zeros(0, np.bool_)

    def after_step(self, look: Look) -> None:
        """Who is swept in this look."""
        self._swept = np.zeros(len(look.slots), np.bool_)
        self._swept[list(look.choice.sweep)] = True

    def after_cut(self, look: Look) -> None:
        """Rows for the tensors that were cut; those that are swept in this look are left to Sweeps."""
        sample = look.sample
        if not sample.indices:
            return
        rows = np.flatnonzero(~self._swept[sample.indices]).tolist()
        plans = [sample.plans[row] for row in rows]
        cuts = [sample.values[row] for row in rows]
        scales = np.array([plan.square_scale for plan in plans], np.float64)
        core_norms = norms(cuts) * np.sqrt(scales)
        whole = np.array([plan.is_whole for plan in plans], np.bool_)
        indices = np.array([sample.indices[row] for row in rows], np.int64)
        keep = whole | np.isfinite(core_norms)
        _report(look, indices[~keep].tolist())
        kept = np.flatnonzero(keep)
        look.add(
            "values",
            indices[keep],
            norm=core_norms[keep],
            nonfinite=nonfinite_counts([cuts[row] for row in kept], core_norms[keep]),
            exact=whole[keep],
        )
        ranged = [
            row for row, plan in enumerate(sample.plans)
            if plan.is_whole and self._ranged.has(look.slots, sample.indices[row])
        ]  # fmt: skip
        _report_extremes(
            look, [sample.indices[row] for row in ranged], [sample.values[row] for row in ranged]
        )


class Sweeps(Probe):
    """Norm, non-finite elements, and the range of watched tensors, from every element."""

    name = "sweeps"
    kind = "sweep"

    def __init__(self) -> None:
        self._ranged = _Ranged()

    def after_step(self, look: Look) -> None:
        """One memory pass over the tensors whose turn it is."""
        _report(look, look.choice.sweep)
        ranged = [index for index in look.choice.sweep if self._ranged.has(look.slots, index)]
        _report_extremes(look, *look.slots.parts(ranged))


class _Ranged:
    """Which tensors have their range reported: watched roles, and buffers (those that are read whole)."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def has(self, slots: SlotTable, index: int) -> bool:
        known = self._known.get(index)
        if known is None:
            place = slots.slots[index].place
            known = self._known[index] = place.kind == "buffer" or role_of(place.fqn) in WATCHED
        return known


def _report(look: Look, indices: Sequence[int]) -> None:
    there, parts = look.slots.parts(indices)
    if not parts:
        return
    exact_norms = norms(parts)
    read = were_read(parts, exact_norms)
    look.add(
        "values",
        np.array(there, np.int64)[read],
        norm=exact_norms[read],
        nonfinite=nonfinite_counts(parts, exact_norms)[read],
        exact=np.ones(np.count_nonzero(read)),
    )


def _report_extremes(look: Look, indices: list[int], parts: list[torch.Tensor]) -> None:
    rows = [row for row, part in enumerate(parts) if can_extremes(part)]
    if not rows:
        return
    low, high, total = extremes([parts[row] for row in rows])
    look.add("extremes", [indices[row] for row in rows], low=low, high=high, total=total)
