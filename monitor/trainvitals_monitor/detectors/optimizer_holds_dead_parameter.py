"""
The detector optimizer-holds-dead-parameter: an optimizer that steps parameters which the model no longer has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from trainvitals.frame import ForeignParameter, OptimizersSeen
from trainvitals_monitor.detectors.detector import Alert, BoolArray, Claim, Detector, IntArray
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_LOOKS = 8


class OptimizerHoldsDeadParameter(Detector):
    """
    Detects:
        An optimizer that holds parameters which belong to no attached model and have no gradient, while the model has
        trainable parameters, of the same shapes, that get gradients and that no optimizer holds. Or: an optimizer all
        of whose parameters are such. What an optimizer held as the model's own, until others of the same names and shapes
        came in its place, is dead even with a gradient: that is its last one.

    Why it matters:
        The optimizer updates leftovers. The model's own parameters are never trained, or the model as a whole is not.

    Known causes:
        Modules replaced after the optimizer was made (https://github.com/meta-pytorch/opacus/issues/432); wrapping,
        sharding or moving the model after that (https://github.com/huggingface/accelerate/issues/2665); a network that is
        drawn anew for the next round (https://github.com/sbi-dev/sbi/issues/200).

    Fix:
        Make the optimizer from `model.parameters()` after the last change of the model.

    Misses:
        Parameters of a second model that was not attached have gradients, and are not taken for dead. Replaced
        parameters of other shapes than the old ones are left to parameter-not-in-optimizer.
    """

    name = "optimizer-holds-dead-parameter"
    family = "coverage"
    severity = Severity.CRITICAL
    summary = "An optimizer steps parameters that the model no longer has."
    reads = ("OptimizersSeen", "grad_norm", "changed")
    alert = Alert(hold="1m", summary="An optimizer steps parameters that the model no longer has")

    def look(self, view: View) -> Iterable[Claim]:
        seen = view.optimizers
        if seen is None or seen.masters or not seen.foreign:
            return
        dead = [parameter for parameter in seen.foreign if not parameter.has_gradient]
        orphans = _orphans(view)
        if not orphans.any():
            return
        tensors = _in_place_of(view, orphans, dead)
        if not len(tensors):
            dead, orphans = _left_behind(view, seen, orphans)
            tensors = _in_place_of(view, orphans, dead)
        if not len(tensors):
            return
        evidence: dict[str, Any] = {
            "shape": [str(list(view.tensors.shape[index])) for index in tensors.tolist()],
            "dead": np.full(len(tensors), len(dead)),
            "grad_norm": view.latest("grad_norm")[tensors],
        }
        yield Claim(
            tensors=tensors,
            message="an optimizer holds {dead} parameters that are no longer in the model, and none holds {fqn} "
            "{shape}, which gets gradients.",
            advice="Make the optimizer from model.parameters() after the last change of the model.",
            evidence=evidence,
            first_step=seen.step,
        )


def _orphans(view: View) -> BoolArray:
    """Trainable parameters with a gradient that no optimizer holds."""
    table = view.tensors
    mask: BoolArray = table.is_param & table.trainable & ~view.held
    if not mask.any():
        return mask
    # Two looks: the optimizer's report and the first gradients may come before its other parameters are known.
    values, _ = view.window("grad_norm", _LOOKS)
    with np.errstate(invalid="ignore"):
        mask &= (values > 0).sum(axis=0) >= 2
    return mask


def _left_behind(
    view: View, seen: OptimizersSeen, orphans: BoolArray
) -> tuple[list[ForeignParameter], BoolArray]:
    """What the optimizers held as the model's until this report, and the orphans that came in its place and stand still."""
    since = view.window_steps(_LOOKS) >= seen.step
    grad, _ = view.window("grad_norm", _LOOKS)
    changed, _ = view.window("changed", _LOOKS)
    with np.errstate(invalid="ignore"):
        orphans = orphans & ((grad[since] > 0).sum(axis=0) >= 2) & ~(changed[since] > 0).any(axis=0)
    if not orphans.any():
        return [], orphans
    wanted = set(np.flatnonzero(orphans).tolist())
    for at in reversed(view.past_events(OptimizersSeen)):
        held = wanted.intersection(chain(*at.event.group_tensors))
        if held and at.event.step < seen.step:
            break
    else:
        return [], orphans
    orphans &= np.isin(np.arange(view.num_tensors), list(held))
    strangers = Counter(tuple(parameter.shape) for parameter in at.event.foreign)
    left = []
    for parameter in seen.foreign:
        shape = tuple(parameter.shape)
        # As many as were foreign before are no news; of one shape it does not matter which.
        if strangers[shape]:
            strangers[shape] -= 1
        else:
            left.append(parameter)
    return left, orphans


def _in_place_of(view: View, orphans: BoolArray, dead: list[ForeignParameter]) -> IntArray:
    """The orphans that dead parameters are held in place of: all of them if nothing that lives is held."""
    if dead and _holds_nothing_live(view, dead):
        return np.flatnonzero(orphans)
    return _same_shape(view, orphans, dead)


def _holds_nothing_live(view: View, dead: list[ForeignParameter]) -> bool:
    seen = view.optimizers
    return seen is not None and not any(seen.group_tensors) and len(dead) == len(seen.foreign)


def _same_shape(view: View, orphans: BoolArray, dead: list[ForeignParameter]) -> IntArray:
    """Orphans that a dead parameter matches in shape, each dead one used once."""
    left: dict[tuple[int, ...], int] = {}
    for parameter in dead:
        shape = tuple(parameter.shape)
        left[shape] = left.get(shape, 0) + 1
    chosen = []
    for index in np.flatnonzero(orphans).tolist():
        shape = view.tensors.shape[index]
        if left.get(shape, 0) > 0:
            left[shape] -= 1
            chosen.append(index)
    return np.array(chosen, np.int64)
