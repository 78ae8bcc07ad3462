"""
The detector average-aliased: a teacher, target or average that has become the very model that it was a copy of.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import SlotChanged
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class AverageAliased(Detector):
    """
    Detects:
        Parameters of one part of the model that were tensors of their own, and since some step of the training are the
        very objects that another part has under the same names, as when `target = online` is assigned.

    Why it matters:
        A target network or teacher is there to lag behind. As the same object it moves with each step: the training
        chases its own predictions, and what is saved as the average is the model.

    Known causes:
        `self.target = self.online` for a copy (https://github.com/andri27-ts/Reinforcement-Learning/issues/14,
        https://github.com/Britefury/self-ensemble-visual-domain-adapt/issues/6); `state_dict()` of one loaded into the
        other with `assign=True`.

    Fix:
        Copy the values: `target.load_state_dict(online.state_dict())`, or `copy.deepcopy` once.

    Misses:
        Parts that share their tensors from the first step on: two names for one network are a design, also when it is
        replaced under both. Teachers that are no part of what is attached.
    """

    name = "average-aliased"
    family = "movement"
    severity = Severity.WARNING
    summary = "A copy of the model has become the model itself."
    reads = ("SlotChanged",)
    alert = Alert(summary="A teacher or target network has become the model itself")
    thresholds = (
        Threshold(
            name="tensors",
            default=2,
            unit="tensors of one part",
            reason="one parameter may be tied on purpose while training; a whole part under the same names is assigned",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        replaced = {
            at.event.tensor: at.event.step
            for at in view.events(SlotChanged)
            if at.event.tensor >= 0 and "object" in at.event.changes
        }
        if not replaced:
            return
        table = view.tensors
        parts: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for tensor in sorted(replaced):
            for other in _shared_with(view, tensor) if table.is_param[tensor] else ():
                roots = _roots(table.fqn[tensor], table.fqn[other])
                if roots is not None and not _began_as_one(view, tensor, other):
                    parts.setdefault(roots, []).append((tensor, other))
        for pairs in parts.values():
            if len(pairs) >= self.value("tensors"):
                tensors = np.array([tensor for tensor, _ in pairs], np.int64)
                steps = np.array([replaced[tensor] for tensor, _ in pairs], np.int64)
                yield Claim(
                    tensors=tensors,
                    message="{fqn} was a tensor of its own, and since step {replaced_step} is the very object that {other} "
                    "is, as are {tensors} of its part.",
                    advice="Copy the values (load_state_dict, copy_) instead of assigning the module.",
                    evidence={
                        "replaced_step": steps,
                        "other": [table.fqn[other] for _, other in pairs],
                        "tensors": np.full(len(pairs), len(pairs)),
                    },
                    first_step=steps,
                    last_good_step=steps - 1,
                )


def _shared_with(view: View, tensor: int) -> list[int]:
    """The tensors that share its object now."""
    first = int(view.tied_to[tensor])
    return [first] if first >= 0 else np.flatnonzero(view.tied_to == tensor).tolist()


def _began_as_one(view: View, tensor: int, other: int) -> bool:
    """Whether both names were one tensor's from the first: then it may be replaced under both, one after the other."""
    mine, its = int(view.first_tied_to[tensor]), int(view.first_tied_to[other])
    return mine == other or its == tensor or mine == its >= 0


def _roots(one: str, other: str) -> tuple[str, str] | None:
    """What two names begin with, up to where they are the same; None if not even the module's own name is."""
    mine, its = one.split("."), other.split(".")
    same = 0
    while same < min(len(mine), len(its)) and mine[-1 - same] == its[-1 - same]:
        same += 1
    return (".".join(mine[:-same]), ".".join(its[:-same])) if same else None
