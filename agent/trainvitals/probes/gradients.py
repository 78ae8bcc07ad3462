"""
Gradients as the optimizer is about to use them: their norms, and which are missing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.optim import Optimizer

from trainvitals.gradient import gradient_of, local_gradient
from trainvitals.probes.probe import Look, Probe
from trainvitals.sweep import can_norm, norms


class Gradients(Probe):
    """
    Read before the step: trainers free or zero gradients after it.

    Parameters that no optimizer holds are read too, once a round: a gradient that nobody uses is a fact of its own.
    """

    name = "gradients"
    kind = "gradients"

    def __init__(self) -> None:
        self._round = -1

    def before_step(self, look: Look) -> None:
        """Rows for the chosen parameters that the optimizers about to step hold."""
        if not look.choice.gradients:
            return
        wanted = np.zeros(len(look.slots), np.bool_)
        scales = np.ones(len(look.slots))
        for optimizer in look.optimizers:
            tensors = look.slots.holding(optimizer).tensors
            wanted[tensors] = True
            scales[tensors] = _loss_scale(optimizer)
        if look.step != self._round:
            self._round = look.step
            wanted |= ~look.slots.held()
        _report(look, [index for index in look.choice.gradients if wanted[index]], scales)


def _report(
    look: Look, indices: list[int], scales: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    missing: list[int] = []
    read: list[tuple[int, torch.Tensor]] = []
    for index in indices:
        parameter = look.slots.tensor(index)
        if parameter is None or not parameter.requires_grad:
            continue
        gradient = gradient_of(parameter)
        if gradient is None:
            # An empty part of a flat shard (FSDP1) never has one: there is nothing to say of it.
            if parameter.numel():
                missing.append(index)
            continue
        part = local_gradient(gradient)
        if part is not None and can_norm(part):
            read.append((index, part))
    there = [index for index, _ in read]
    grad_norms = norms([part for _, part in read]) / scales[there]
    look.add(
        "gradients",
        there + missing,
        grad_norm=np.concatenate([grad_norms, np.zeros(len(missing))]),
        grad_missing=[0] * len(there) + [1] * len(missing),
    )


def _loss_scale(optimizer: Optimizer) -> float:
    """
    What the gradients are still multiplied with: GradScaler hands its scale to fused optimizers, which divide inside.

    A scale on another device is read with a sync; it exists under fp16 mixed precision with fused optimizers only.
    """
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, torch.Tensor) else 1.0
