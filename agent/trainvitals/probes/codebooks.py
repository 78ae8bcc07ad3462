"""
How many codes of a vector quantizer are in use, from what follows only those that were chosen.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.dtypes import reading
from trainvitals.facts import CODE_LOOKS
from trainvitals.gradient import gradient_of, local_gradient
from trainvitals.probes.probe import Look, Probe
from trainvitals.roles import Role, role_of
from trainvitals.slots import SlotTable

MIN_CODES, MAX_CODES = 4, 1 << 16
MAX_ELEMENTS = 1 << 22
"""Of a gradient that is read whole: as much as a memory pass over 16 MB."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass
class _Book:
    """One codebook: the tensor that is read, its sizes at the look before and how they decay, and the codes of late."""

    index: int
    trained: bool
    sizes: Floats | None = None
    step: int = 0
    memory_steps: float = 0.0
    recent: deque[Bools] = field(default_factory=lambda: deque(maxlen=CODE_LOOKS))


class Codebooks(Probe):
    """
    Reads cluster sizes (a number a code) and gradients of codebooks that are trained, before the step, where the budget
    has chosen gradients to be read. One host copy a codebook; nothing where there is none.
    """

    name = "codebooks"
    kind = "gradients"

    def __init__(self) -> None:
        self._known = -1
        self._books: list[_Book] = []
        self._step = -1

    def before_step(self, look: Look) -> None:
        """A row for every codebook of which something is known."""
        if look.slots.version != self._known:
            self._known = look.slots.version
            before = {(book.index, book.trained): book for book in self._books}
            self._books = [
                before.get((book.index, book.trained), book) for book in _find(look.slots)
            ]
        if look.step == self._step:
            return
        self._step = look.step
        for book in self._books:
            picked = _by_gradient(look, book) if book.trained else _by_sizes(look, book)
            if picked is None or not picked.any():
                continue
            if book.recent and len(book.recent[-1]) != len(picked):
                book.recent.clear()
            book.recent.append(picked)
            look.add(
                "codes",
                [book.index],
                codes=[len(picked)],
                picked=[int(picked.sum())],
                picked_recently=[int(np.any(book.recent, axis=0).sum())],
                memory_steps=[book.memory_steps],
            )

    def close(self) -> None:
        """Forget what was read."""
        self._books = []


def _find(slots: SlotTable) -> list[_Book]:
    """Cluster sizes in buffers, and matrices of codes that require a gradient."""
    books = []
    for index, slot in enumerate(slots.slots):
        fqn, shape = slots.fqn(index), slots.layout(index).shape
        if role_of(fqn) is not Role.CODEBOOK or slots.layout(index).kind == "box" or not shape:
            continue
        sizes = slot.place.kind == "buffer" and fqn.endswith("cluster_size")
        matrix = slot.place.kind == "param" and len(shape) == 2
        if MIN_CODES <= shape[-1 if sizes else 0] <= MAX_CODES and (sizes or matrix):
            books.append(_Book(index, trained=matrix))
    return books


def _by_sizes(look: Look, book: _Book) -> Bools | None:
    """
    Averages of counts: what was not chosen only decays, by the least ratio of all; what was chosen gained at least the
    share of one choice. Of several heads in one tensor, each size is a code.
    """
    part = look.slots.local(book.index)
    how = None if part is None else reading(part)
    if part is None or how is None or not how.is_float:
        return None
    now = part.detach().reshape(-1).to(torch.float64).cpu().numpy()
    before, book.sizes = book.sizes, now
    steps, book.step = look.step - book.step, look.step
    if before is None or len(before) != len(now) or not np.isfinite(now).all():
        return None
    held = before > 1e-3 * before.mean()
    if not held.any() or (now == before).all():
        return None
    decay = float((now[held] / before[held]).min())
    if not 0 < decay < 1:
        return None
    book.memory_steps = -max(1, steps) / math.log(decay)
    picked: Bools = now - decay * before > 0.25 * (1 - decay)
    return picked


def _by_gradient(look: Look, book: _Book) -> Bools | None:
    """The rows that have a gradient."""
    tensor = look.slots.tensor(book.index)
    if book.index not in look.choice.gradients or tensor is None or tensor.numel() > MAX_ELEMENTS:
        return None
    gradient = gradient_of(tensor)
    part = None if gradient is None else local_gradient(gradient)
    if part is None or part.layout is not torch.strided or part.dim() != 2:
        return None
    return (part.detach() != 0).any(1).cpu().numpy()
