"""
Drives the probes around real optimizer steps, as agent.py does, without clock, guard and sender.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.budget import Budget
from trainvitals.frame import Event, TensorInfo
from trainvitals.probes import PROBES
from trainvitals.probes.probe import Choice, Look, Probe, Rested
from trainvitals.record import Record
from trainvitals.slots import SlotTable


class Rig:
    """The probes on some models, everything looked at at every step; `rows` and `events` give what they said."""

    def __init__(self, *models: nn.Module, base_step: int = 0, world_size: int = 1) -> None:
        self.slots = SlotTable(models, world_size=world_size)
        self.record = Record(1 << 30)
        self.budget = Budget(None)
        self.probes = [probe() for probe in PROBES]
        # What probes have patched is given back with the rig, or the next test finds it.
        weakref.finalize(self, _close, self.probes).atexit = False
        self.base_step = self.step = base_step
        self.events: list[Event] = []
        self.infos: list[TensorInfo] = []
        self._tables: dict[str, list[dict[str, npt.NDArray[Any]]]] = {}

    def round(self, *optimizers: Optimizer, choice: Choice | None = None) -> None:
        """One round: each optimizer steps once."""
        first = self.step == self.base_step
        if first:
            self.slots.rebaseline()
        chosen = choice or self.budget.choose(self.step, self.slots) or Choice()
        with torch.no_grad():
            for optimizer in optimizers:
                self._each("before_step", self._look(chosen, [optimizer], first))
                with torch.enable_grad():
                    optimizer.step()
            if not optimizers:
                self._each("before_step", self._look(chosen, [], first))
            look = self._look(chosen, optimizers, first)
            self._each("after_step", look)
            for cores in look.in_parts():
                self._each("after_cut", look.at(cores))
        self.step += 1
        self._take()

    def rest(self, *optimizers: Optimizer, rounds: int = 1) -> None:
        """Rounds in which nobody looks: each optimizer steps once in each."""
        rested = Rested()
        for _ in range(rounds):
            self.step += 1
            for probe in self.probes:
                probe.rest(self.step)
            for optimizer in optimizers:
                for probe in self.probes:
                    probe.rest_step(self.step, [optimizer])
                optimizer.step()
            rested.add(1, optimizers)
        for probe in self.probes:
            probe.after_rests(self.record, rested)
        self._take()

    def rows(self, table: str, fqn: str) -> dict[int, dict[str, float]]:
        """What a table says of a tensor: step -> {column: value}."""
        index = self.index(fqn)
        found: dict[int, dict[str, float]] = {}
        for part in self._tables.get(table, []):
            for row in np.flatnonzero(part["tensor"] == index):
                values = {name: column[row].item() for name, column in part.items()}
                assert int(values["step"]) not in found, "two rows of one tensor at one step"
                found[int(values["step"])] = values
        return found

    def row(self, table: str, fqn: str) -> dict[str, float]:
        """The row of the last step; KeyError if it was not looked at then."""
        return self.rows(table, fqn)[self.step]

    def table(self, name: str) -> list[dict[str, npt.NDArray[Any]]]:
        """The table's parts, one a step at most."""
        return self._tables.get(name, [])

    def index(self, fqn: str) -> int:
        """The tensor's index."""
        return [self.slots.fqn(i) for i in range(len(self.slots))].index(fqn)

    def _look(self, choice: Choice, optimizers: Sequence[Optimizer], first: bool) -> Look:
        return Look(self.step + 1, self.slots, self.record, choice, optimizers, first)

    def _each(self, moment: str, look: Look) -> None:
        for probe in self.probes:
            getattr(probe, moment)(look)

    def _take(self) -> None:
        tables, events, infos = self.record.take()
        for name, columns in tables.items():
            self._tables.setdefault(name, []).append(columns)
        self.events += events
        self.infos += infos


def _close(probes: Iterable[Probe]) -> None:
    for probe in probes:
        probe.close()
