"""
The detector tied-weights-broken: two names that were one tensor have become two, and drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import SlotChanged
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, IntArray
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_SAME = 1e-6
_WHEN = (
    "shared one tensor",
    "shared one tensor in the attempt before",
    "are declared to be one tensor",
)


class TiedWeightsBroken(Detector):
    """
    Detects:
        Two names of parameters that shared one tensor at the start of this attempt, or in the one before, and no
        longer do, or that are declared as one (`Contract(tied=...)`) and are not, while at least one of them is trained and their values differ.

    Why it matters:
        The embedding and the output layer drift apart: another model than the one that was designed and saved, with
        more parameters, which nothing announces.

    Known causes:
        `load_state_dict(assign=True)` gives each name its own tensor (https://github.com/pytorch/pytorch/issues/188346);
        weights are tied before they are materialised or loaded
        (https://github.com/huggingface/accelerate/issues/1197).

    Fix:
        Tie again after loading (`tie_weights()`), before the optimizer is made.

    Misses:
        Ties that were broken before the agent saw them and are not declared. A tie that is given up
        by design is reported. Ties by value across pipeline stages share no tensor.
    """

    name = "tied-weights-broken"
    family = "identity"
    severity = Severity.CRITICAL
    summary = "Two names that shared one tensor no longer do."
    reads = ("SlotChanged", "TensorInfo", "norm", "exact")
    alert = Alert(summary="Tied weights have come apart")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        ties = _broken_ties(view)
        if not len(ties):
            return
        one, other, came = ties.T
        first_step = np.where(came > 0, view.base_step + 1, _replaced_at(view, one, other))
        # Both looked at since: a layer that was taken away is no broken tie.
        seen, trained = view.last_seen("norm"), view.tensors.trainable & view.held
        apart = (seen[one] >= first_step) & (seen[other] >= first_step)
        apart &= trained[one] | trained[other]
        norm, exact = view.latest("norm"), view.latest("exact") == 1
        with np.errstate(invalid="ignore"):
            same = np.abs(norm[one] - norm[other]) <= _SAME * np.maximum(norm[one], norm[other])
        apart &= ~(same & exact[one] & exact[other])
        if not apart.any():
            return
        one, other, came, first_step = one[apart], other[apart], came[apart], first_step[apart]
        yield Claim(
            tensors=one,
            message="{fqn} and {other} {when}, and are two now, of norm {norm:.6g} and {other_norm:.6g}.",
            advice="Tie the weights again after loading them, before the optimizer is made.",
            evidence={
                "other": [view.tensors.fqn[index] for index in other],
                "when": [_WHEN[each] for each in came.tolist()],
                "norm": norm[one],
                "other_norm": norm[other],
            },
            first_step=first_step,
            last_good_step=first_step - 1,
        )


def _broken_ties(view: View) -> IntArray:
    """(one, other, where it was known from: see _WHEN) [k, 3], of ties that are none now."""
    tied, is_param = view.tied_to, view.tensors.is_param
    pairs = dict.fromkeys(view.cached("ties declared", lambda: _pairs(view, view.contract.tied)), 2)
    pairs |= dict.fromkeys(view.cached("ties before", lambda: _ties_before(view)), 1)
    for at in view.past_events(SlotChanged):
        one = at.event.tensor
        pairs |= {(one, other): 0 for other in at.event.untied if one >= 0 and other >= 0}
    broken = [
        (one, other, came)
        for (one, other), came in pairs.items()
        if _root(tied, one) != _root(tied, other) and is_param[one] and is_param[other]
    ]
    return np.array(broken, np.int64).reshape(-1, 3)


def _ties_before(view: View) -> list[tuple[int, int]]:
    """Those of the attempt before, as far as their tensors are still there."""
    return _pairs(view, view.previous.tied.items() if view.previous else ())


def _pairs(view: View, names: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """Indices of pairs of names, as far as both are there."""
    find = view.tensors.index_of
    pairs = [(find(name), find(first)) for name, first in names]
    return [(one, other) for one, other in pairs if one is not None and other is not None]


def _root(tied: IntArray, index: int) -> int:
    return int(tied[index]) if tied[index] >= 0 else index


def _replaced_at(view: View, one: IntArray, other: IntArray) -> IntArray:
    """The last step at which either slot was found to hold another object; this step, if none was seen."""
    steps = np.full(view.num_tensors, -1, np.int64)
    for at in view.past_events(SlotChanged):
        if "object" in at.event.changes and at.event.tensor >= 0:
            steps[at.event.tensor] = at.event.step
    last = np.maximum(steps[one], steps[other])
    return np.where(last >= 0, last, view.step)
