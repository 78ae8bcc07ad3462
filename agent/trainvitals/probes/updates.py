"""
What changed between two looks at the same cores: update norms, changed elements, updates that were lost; and digests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from trainvitals.cores import Mask, compare, cut_many, nonzero
from trainvitals.gradient import gradient_of
from trainvitals.layout import is_dtensor, local_part
from trainvitals.probes.probe import Look, Probe, Rested, Sample, samples, split, tell_digests
from trainvitals.record import Record


class Updates(Probe):
    """
    Keeps each tensor's last cores (16 KB at most) and compares them with the next.

    `since` counts what could have moved the tensor: steps of the optimizer that holds it, rounds for the others. A
    tensor whose optimizer has not stepped since the last look (a GAN's generator) waits: no row. The elements that had
    a gradient are those of the last step before the look.
    """

    name = "updates"
    kind = "cores"

    def __init__(self) -> None:
        self._cores: dict[int, torch.Tensor] = {}
        self._moves = np.zeros(0, np.int64)
        self._moves_seen = np.zeros(0, np.int64)
        self._had_gradient: dict[int, Mask] = {}
        self._round = -1
        self._started = False
        self._rested = Rested()

    def before_step(self, look: Look) -> None:
        """The state that training starts from, once; and which of the chosen elements have a gradient."""
        self._grow(len(look.slots))
        if look.first and not self._started:
            self._started = True
            for start in samples(look.slots, range(len(look.slots))):
                self._remember(start)
                tell_digests(look.record, start, look.step - 1)
        if look.step != self._round:
            self._round = look.step
            self._had_gradient.clear()
        self._cut_gradients(look)

    def after_step(self, look: Look) -> None:
        """Count what could have moved each tensor."""
        self._count_moves(look)

    def after_cut(self, look: Look) -> None:
        """Compare the tensors' cores with the last ones, and keep them."""
        sample = look.sample
        if sample.indices:
            self._report(look, sample)
        if look.choice.digests:
            tell_digests(look.record, sample.only(look.choice.digests), look.step)

    def after_rests(self, record: Record, rested: Rested) -> None:  # noqa: ARG002
        """They moved what their optimizers hold; that is added up at the next look."""
        self._rested.join(rested)

    def close(self) -> None:
        """Free the cores."""
        self._cores.clear()
        self._had_gradient.clear()

    def _cut_gradients(self, look: Look) -> None:
        if not look.choice.cores:
            return
        chosen = np.zeros(len(look.slots), np.bool_)
        chosen[list(look.choice.cores)] = True
        for optimizer in look.optimizers:
            tensors = look.slots.holding(optimizer).tensors
            for part in split(look.slots, tensors[chosen[tensors]].tolist()):
                found = [(index, self._dense_gradient(look, index)) for index in part]
                there = [(index, gradient) for index, gradient in found if gradient is not None]
                plans = [look.slots.plan(index) for index, _ in there]
                masks = nonzero(cut_many([gradient for _, gradient in there], plans))
                self._had_gradient.update(zip((index for index, _ in there), masks, strict=True))

    def _dense_gradient(self, look: Look, index: int) -> torch.Tensor | None:
        """The local part of the gradient, if it lies as the parameter does."""
        same = look.slots.slots[index].unmoved()
        tensor, part = same, same
        if same is None:
            tensor, part = look.slots.tensor(index), look.slots.local(index)
        gradient = None if tensor is None else gradient_of(tensor)
        if gradient is None or part is None or tensor is None or gradient.layout != part.layout:
            return None
        if is_dtensor(gradient) and (
            not is_dtensor(tensor) or gradient.placements != tensor.placements  # type: ignore[attr-defined]
        ):
            return None
        local = local_part(gradient)
        return local if local.shape == part.shape else None

    def _count_moves(self, look: Look) -> None:
        self._grow(len(look.slots))
        unheld = ~look.slots.held()
        moved = unheld.astype(np.int64)
        for optimizer in look.optimizers:
            moved[look.slots.holding(optimizer).tensors] = 1
        rested, self._rested = self._rested, Rested()
        moved[unheld] += rested.rounds
        for optimizer, steps in rested.steps.items():
            moved[look.slots.holding(optimizer).tensors] += steps
        self._moves += moved

    def _report(self, look: Look, sample: Sample) -> None:
        since = (self._moves - self._moves_seen)[sample.indices]
        rows = [
            row
            for row, index in enumerate(sample.indices)
            if since[row] > 0 and index in self._cores
        ]
        indices = [sample.indices[row] for row in rows]
        before = [self._cores[index] for index in indices]
        after = [sample.values[row] for row in rows]
        found = compare(before, after, [self._had_gradient.pop(index, None) for index in indices])
        scales = np.array([sample.plans[row].square_scale for row in rows], np.float64)
        seen = found.looked > 0
        look.add(
            "updates",
            np.array(indices, np.int64)[seen],
            update_norm=np.sqrt(found.square_sum * scales)[seen],
            looked=found.looked[seen],
            changed=found.changed[seen],
            with_gradient=found.with_gradient[seen],
            lost=found.lost[seen],
            since=since[rows][seen],
        )
        fresh = [index not in self._cores for index in sample.indices]
        keep = [row for row in range(len(since)) if since[row] > 0 or fresh[row]]
        self._remember(
            Sample(
                [sample.indices[row] for row in keep],
                [sample.values[row] for row in keep],
                [sample.plans[row] for row in keep],
            )
        )

    def _remember(self, sample: Sample) -> None:
        self._cores.update(zip(sample.indices, sample.values, strict=True))
        self._moves_seen[sample.indices] = self._moves[sample.indices]

    def _grow(self, size: int) -> None:
        more = size - len(self._moves)
        if more > 0:
            none: npt.NDArray[np.int64] = np.zeros(more, np.int64)
            self._moves = np.concatenate([self._moves, none])
            self._moves_seen = np.concatenate([self._moves_seen, none])
