"""
Which of the attached tensors an optimizer holds.

Mixed precision with master weights (Megatron-LM): the optimizer holds fp32 clones, and each parameter of the model has
its clone as `main_param`; the clone stands for the model's tensor here. What belongs to no attached model is foreign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch.optim import Optimizer

Indices = npt.NDArray[np.int64]


class Tensors(Protocol):
    """What is asked of the slot table."""

    params_version: int

    def __len__(self) -> int: ...
    def tensor(self, index: int) -> torch.Tensor | None: ...
    def indices_of(self, tensor: torch.Tensor) -> list[int]: ...


@dataclass(frozen=True, eq=False)
class Holding:
    """
    `groups[g]`: the tensors of the optimizer's group g, a tied one under each of its names. `tensors`: all of them.
    `held[k]`: the parameter that the optimizer updates for `tensors[k]` (itself or its master), as (group, position).
    `foreign`: (group, position) of the parameters that no attached model has.
    """

    groups: list[list[int]]
    tensors: Indices
    held: list[tuple[int, int]]
    foreign: list[tuple[int, int]]
    masters: bool


class Holdings:
    """The holdings of every optimizer that was asked for, made anew when its groups or the parameters change."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._known: WeakKeyDictionary[Optimizer, _Known] = WeakKeyDictionary()

    def of(self, optimizer: Optimizer) -> Holding:
        """The optimizer's holding; 25 ns a parameter when nothing changed."""
        known = self._known.get(optimizer)
        if known is None or not known.is_current(optimizer, self._tensors.params_version):
            params = [list(group["params"]) for group in optimizer.param_groups]
            holding = _look_up(params, self._tensors)
            known = _Known(holding, params, self._tensors.params_version)
            self._known[optimizer] = known
        return known.holding

    def optimizers(self) -> list[Optimizer]:
        """Every optimizer that was asked for and still exists, the first known first."""
        return list(self._known)

    def held(self) -> npt.NDArray[np.bool_]:
        """Per tensor: whether any known optimizer holds it."""
        held = np.zeros(len(self._tensors), np.bool_)
        for optimizer in self.optimizers():
            held[self.of(optimizer).tensors] = True
        return held


@dataclass(frozen=True, eq=False)
class _Known:
    holding: Holding
    params: list[list[torch.Tensor]]
    version: int

    def is_current(self, optimizer: Optimizer, version: int) -> bool:
        groups = optimizer.param_groups
        return (
            version == self.version
            and len(groups) == len(self.params)
            # Objects, not values: == between tensors would compute.
            and all(
                len(group["params"]) == len(before) and all(map(is_, group["params"], before))
                for group, before in zip(groups, self.params, strict=True)
            )
        )


def _look_up(params: Sequence[Sequence[torch.Tensor]], tensors: Tensors) -> Holding:
    clones: dict[int, list[int]] | None = None
    groups: list[list[int]] = []
    held: dict[int, tuple[int, int]] = {}
    foreign: list[tuple[int, int]] = []
    masters = False
    for number, group in enumerate(params):
        groups.append([])
        for position, parameter in enumerate(group):
            found = tensors.indices_of(parameter)
            if not found:
                clones = _masters(tensors) if clones is None else clones
                found = clones.get(id(parameter), [])
                masters = masters or bool(found)
            if not found:
                foreign.append((number, position))
            groups[-1] += found
            held.update(dict.fromkeys(found, (number, position)))
    indices = np.array(list(held), np.int64)
    return Holding(groups, indices, list(held.values()), foreign, masters)


def _masters(tensors: Tensors) -> dict[int, list[int]]:
    """Master weight -> the tensors it stands for."""
    found: dict[int, list[int]] = {}
    for index in range(len(tensors)):
        master = getattr(tensors.tensor(index), "main_param", None)
        if isinstance(master, torch.Tensor):
            found.setdefault(id(master), []).append(index)
    return found
