"""
Gradients that were kept from one step to the next: what was written into them in between, and how alike they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.cores import cut_many
from trainvitals.gradient import local_gradient
from trainvitals.probes.probe import Look, Probe, Rested
from trainvitals.record import Record
from trainvitals.sweep import can_norm

PARAMETERS = 8
BURST_STEPS = 16
REST_STEPS = 256
"""So many steps in a row are looked at, and again after a rest."""


@dataclass
class _Gradient:
    """
    One parameter's gradient at the step before: its id, its version then, and its cores if it was kept.

    Not a weak reference: `torch.utils.swap_tensors`, which a conversion of the model calls for gradients too, refuses
    tensors that have one. Ids are re-used, but another gradient's version begins anew instead of going on.
    """

    identity: int
    version: int
    cores: torch.Tensor | None

    def is_kept(self, gradient: torch.Tensor) -> bool:
        """Whether this is the same gradient, written into since."""
        return self.identity == id(gradient) and gradient._version > self.version


class KeptGradients(Probe):
    """
    Looks at the gradients of a few parameters just before each step of a burst. `zero_grad(set_to_none=True)`, the
    default, makes new ones at each step: then nothing is read, and no row comes of it.

    A write in place makes a tensor's version one larger, a backward pass into a kept gradient is one; `.data` writes
    do not count.
    """

    name = "kept gradients"

    def __init__(self) -> None:
        self._last: dict[int, _Gradient] = {}
        self._before: dict[int, _Gradient] = {}
        self._first_step = -1

    def before_step(self, look: Look) -> None:
        """Rows for the chosen parameters whose gradient is the one of the step before, written into since."""
        if self._first_step < 0:
            self._first_step = look.step
        if (look.step - self._first_step) % REST_STEPS >= BURST_STEPS:
            self._last.clear()
            return
        for optimizer in look.optimizers:
            self._look_at(look, _some(look.slots.holding(optimizer).tensors))

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: ARG002
        """Nobody knows the step before; of two looks between rests no row comes."""
        self._last.clear()

    def close(self) -> None:
        """Free the cores."""
        self._last.clear()

    def _look_at(self, look: Look, indices: list[int]) -> None:
        kept: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        for index in indices:
            gradient = _object(look.slots.tensor(index))
            before = self._last.pop(index, None)
            if gradient is None:
                continue
            self._last[index] = _Gradient(id(gradient), gradient._version, None)
            if before is not None and before.is_kept(gradient):
                part = _part(look, index, gradient)
                if part is not None:
                    kept.append((index, gradient, part))
                    self._before[index] = before
        self._compare(look, kept)
        self._before.clear()

    def _compare(self, look: Look, kept: list[tuple[int, torch.Tensor, torch.Tensor]]) -> None:
        """Rows for those that were kept at the step before too: their cores are known."""
        plans = [look.slots.plan(index) for index, *_ in kept]
        cuts = cut_many([part for *_, part in kept], plans)
        rows = []
        for (index, gradient, _), cores in zip(kept, cuts, strict=True):
            before = self._before[index]
            self._last[index].cores = cores
            if before.cores is not None and before.cores.shape == cores.shape:
                sums = _sums(before.cores, cores)
                rows.append((index, gradient._version - before.version, *sums))
        if rows:
            tensors, writes, dots, squares_before, squares = zip(*rows, strict=True)
            look.add(
                "kept",
                tensors,
                writes=writes,
                kept_dot=dots,
                kept_before=squares_before,
                kept_square=squares,
            )


def _object(parameter: torch.Tensor | None) -> torch.Tensor | None:
    """`.grad` itself, whose version is asked for; another kind of gradient is not looked at."""
    return None if parameter is None else parameter.grad


def _some(tensors: npt.NDArray[np.int64]) -> list[int]:
    """A few, spread over all."""
    if len(tensors) > PARAMETERS:
        tensors = tensors[np.arange(PARAMETERS) * len(tensors) // PARAMETERS]
    found: list[int] = tensors.tolist()
    return found


def _part(look: Look, index: int, gradient: torch.Tensor) -> torch.Tensor | None:
    """The local part, if it lies as the parameter does and can be read."""
    live = look.slots.local(index)
    if live is None or gradient.layout is not torch.strided:
        return None
    part = local_gradient(gradient)
    fits = part is not None and part.shape == live.shape and part.is_floating_point()
    return part if fits and part is not None and can_norm(part) else None


def _sums(before: torch.Tensor, now: torch.Tensor) -> tuple[float, float, float]:
    one, other = before.double().cpu().numpy(), now.double().cpu().numpy()
    with np.errstate(all="ignore"):
        return float(one @ other), float(one @ one), float(other @ other)
