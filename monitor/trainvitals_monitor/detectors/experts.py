"""
What detectors of mixtures of experts share: how evenly experts are used, and what belongs to the same router.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import FloatArray, IntArray
from trainvitals_monitor.history import View

_BALANCING_LOOKS = 16
_AGAINST_LOAD = -0.3
"""Correlation of a working bias's moves with the load: sign updates have -0.7 to -1."""
_SETTLED_STEPS = 16


def evenness(effective: FloatArray, experts: FloatArray, chosen: FloatArray) -> FloatArray:
    """0: the fewest experts that a token's choices can go to take everything; 1: all have the same load."""
    with np.errstate(invalid="ignore", divide="ignore"):
        even: FloatArray = (effective - chosen) / (experts - chosen)
    return even


class Uneven(NamedTuple):
    """Counted routers by tensor, each of length k: experts, choices of a token, evenness of the recent loads."""

    tensors: IntArray
    experts: FloatArray
    chosen: FloatArray
    even: FloatArray


def unevenly_used(view: View, bound: FloatArray, tokens: FloatArray) -> Uneven:
    """Those below `bound` [n] whose experts were chosen `tokens` [n] times each, on average, in the recent looks."""
    tensors = np.flatnonzero(view.seen("recent_effective"))
    if not len(tensors):  # as in every model without experts
        return Uneven(tensors, np.empty(0), np.empty(0), np.empty(0))
    experts, chosen = view.now("experts")[tensors], view.now("chosen")[tensors]
    even = evenness(view.now("recent_effective")[tensors], experts, chosen)
    enough = view.now("recent_tokens")[tensors] >= tokens[tensors] * experts
    found = enough & (even < bound[tensors])
    return Uneven(tensors[found], experts[found], chosen[found], even[found])


def is_by_design(view: View, tensor: int) -> bool:
    """
    Whether the load of the router that this counter or weight belongs to is what somebody wants, or is being mended: its
    balancing bias moves against the load, its weight is not trained, or the learning rate still warms up.
    """
    bias = _near(view, tensor, Role.EXPERT_BIAS)
    if len(bias) and _mean_follows(view, bias) < _AGAINST_LOAD:
        return True
    gate = _near(view, tensor, Role.ROUTER)
    if not len(gate):
        return False
    is_trained = view.tensors.trainable[gate] & (view.held[gate] | (view.optimizers is None))
    warms_up = view.held[gate] & (view.lr_settled[gate] < _SETTLED_STEPS)
    return bool(not is_trained.any() or warms_up.all())


def used_share(view: View, bias: int, looks: int) -> FloatArray:
    """Effective experts of a bias's router over all of them, by look; from the counter, else from the gradients."""
    for stat, of in (("effective_experts", "experts"), ("fed", "stacked")):
        for tensor in np.flatnonzero(view.seen(stat)).tolist():
            if bias in _near(view, tensor, Role.EXPERT_BIAS):
                shares: FloatArray = past(view, stat, tensor, looks)[1] / view.now(of)[tensor]
                return shares
    return np.empty(0)


def past(view: View, stat: str, tensor: int, looks: int) -> tuple[IntArray, FloatArray]:
    """Steps and values of the last so many looks, in the window."""
    values, seen = view.window(stat, 256)
    rows = np.flatnonzero(seen[:, tensor])[-looks:]
    return view.window_steps(256)[rows], values[rows, tensor]


def _near(view: View, tensor: int, role: Role) -> IntArray:
    """Tensors of this role in the same module, or one up or down from it."""
    home = _modules(view.tensors.fqn[tensor])
    found: IntArray = view.cached(
        ("near", tensor, role),
        lambda: np.array(
            [
                index
                for index in np.flatnonzero(view.tensors.mask(role))
                if _is_near(home, _modules(view.tensors.fqn[index]))
            ],
            np.int64,
        ),
    )
    return found


def _is_near(one: list[str], other: list[str]) -> bool:
    shared = min(len(one), len(other))
    apart = next((k for k in range(shared) if one[k] != other[k]), shared)
    return len(one) - apart <= 1 and len(other) - apart <= 2


def _modules(fqn: str) -> list[str]:
    return fqn.split(".")[:-1]


def _mean_follows(view: View, bias: IntArray) -> float:
    values = [past(view, "follows", int(index), _BALANCING_LOOKS)[1] for index in bias]
    together = np.concatenate(values)
    return float(together.mean()) if len(together) >= _BALANCING_LOOKS // 2 else 0.0
