"""
The gradient that an optimizer is about to use for a parameter, wherever the trainer keeps it.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from trainvitals.layout import is_dtensor, local_part


def gradient_of(parameter: torch.Tensor) -> torch.Tensor | None:
    """
    `.grad`; else Megatron-LM's `main_grad`; else the gradient of the fp32 master; None where there is none.

    Neither detached nor made local: see `local_gradient`. Call it before the step: trainers free gradients after it.
    """
    gradient = parameter.grad
    if gradient is None:
        gradient = getattr(parameter, "main_grad", None)
    if gradient is None:
        gradient = getattr(getattr(parameter, "main_param", None), "grad", None)
    return gradient if isinstance(gradient, torch.Tensor) else None


def local_gradient(gradient: torch.Tensor) -> torch.Tensor | None:
    """
    This rank's part; of a sparse gradient its values, summed per row (their norm is the gradient's).

    None for a DTensor with a Partial placement: what one rank has of a sum says nothing.
    """
    if is_dtensor(gradient) and any(p.is_partial() for p in cast(Any, gradient).placements):
        return None
    part = local_part(gradient)
    if part.layout is torch.sparse_coo:
        return part.coalesce().values()
    return part
