"""
Which tensors belong to modules in eval mode, since when; and which belong to modules with running statistics.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.frame import ModesSeen
from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import BoolArray, IntArray
from trainvitals_monitor.history import View


class Modes(NamedTuple):
    """
    `since` [n]: the step from which on the tensor's module is in eval mode, -1 if it is not; `trained` [n]: it was in
    train mode before, in a settled state. `last`: the latest settled report; `settled`: nothing else was seen after it. `dropouts_off`:
    dropouts in eval mode that were not always so.
    """

    since: IntArray
    trained: BoolArray
    last: ModesSeen
    settled: bool
    dropouts_off: int


def modes_of(view: View) -> Modes | None:
    """As the lowest rank that speaks of modes has it; None: nothing is known."""
    found = view.past_events(ModesSeen)
    if not found:
        return None
    rank = min(at.rank for at in found)
    events = [at.event for at in found if at.rank == rank]
    since = np.full(view.num_tensors, -1, np.int64)
    trained = np.zeros(view.num_tensors, np.bool_)
    for event in events:
        evaluating = np.zeros(view.num_tensors, np.bool_)
        evaluating[[index for index in event.tensors if index >= 0]] = True
        if event.settled:
            trained |= ~evaluating
            since = np.where(evaluating, np.where(since < 0, event.since, since), -1)
        else:  # what comes before the next settled state is not known, of any module
            since[:] = -1
    told = [event for event in events if event.settled] or events
    least = min(event.dropouts_evaluating for event in told)
    off = told[-1].dropouts_evaluating - least
    return Modes(since, trained, told[-1], events[-1].settled, off)


class NormModules(NamedTuple):
    """
    Modules with running statistics (batch norms). `number` [n]: which of them the tensor belongs to, -1 for none;
    `statistic` [n]: it is a running statistic; `names`: the modules' FQNs.
    """

    number: IntArray
    statistic: BoolArray
    names: list[str]

    def per_module(self, mask: BoolArray) -> IntArray:
        """How many tensors of each module are in the mask."""
        return np.bincount(
            self.number[mask & (self.number >= 0)], minlength=len(self.names)
        ).astype(np.int64)


def norm_modules(view: View) -> NormModules:
    """Made once per attempt."""
    return view.cached("norm modules", lambda: _norm_modules(view))


def _norm_modules(view: View) -> NormModules:
    table = view.tensors
    statistic = table.mask(Role.RUNNING_STATISTIC) & ~table.is_param
    parents = [fqn.rpartition(".")[0] for fqn in table.fqn]
    names = list(dict.fromkeys(parents[index] for index in np.flatnonzero(statistic)))
    place = {name: number for number, name in enumerate(names)}
    number = np.array([place.get(parent, -1) for parent in parents], np.int64)
    return NormModules(number, statistic, names)
