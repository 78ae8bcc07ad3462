"""
The detector tensor-added-or-lost: parameters and buffers that appeared in the model, or left it, while it was trained.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import SlotChanged
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class TensorAddedOrLost(Detector):
    """
    Detects:
        A parameter or buffer that the model did not have at the first step, or that it has no more.

    Why it matters:
        Checkpoints from before and after have different keys; an optimizer made before does not know what was added,
        and goes on to hold what was lost.

    Known causes:
        Adapters injected or merged, parametrizations and pruning put on or removed, lazy modules, models that grow: all
        legal. By mistake: a head that is made anew by name, a buffer deleted by `del` or set to None.

    Fix:
        If it was not meant, change the model before the first step, or hand what was added to
        `optimizer.add_param_group`.

    Misses:
        Whether it was meant: this is information. What gets gradients and is held by no optimizer is for
        parameter-not-in-optimizer; what is replaced under its own name for slot-replaced.
    """

    name = "tensor-added-or-lost"
    family = "identity"
    severity = Severity.INFO
    summary = "Parameters or buffers appeared in the model, or left it, during training."
    reads = ("SlotChanged", "OptimizersSeen")
    alert = Alert(summary="The model has gained or lost tensors during training")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        new = [at.event for at in view.events(SlotChanged) if at.event.tensor >= 0]
        yield from _claims(
            view,
            [event for event in new if "added" in event.changes],
            "{fqn} is new in the model since step {changed_step}{held}.",
            "If this was not meant, change the model before the first step; optimizers must be told of new parameters.",
            "added",
        )
        yield from _claims(
            view,
            [event for event in new if "lost" in event.changes],
            "{fqn} is no longer in the model since step {changed_step}.",
            "If this was not meant, look for a module that was replaced, or a buffer that was deleted.",
            "lost",
        )


def _claims(
    view: View, events: list[SlotChanged], message: str, advice: str, key: str
) -> Iterable[Claim]:
    first = {event.tensor: event for event in reversed(events)}
    if not first:
        return
    tensors = np.array(sorted(first), np.int64)
    steps = np.array([first[index].step for index in tensors.tolist()], np.int64)
    outside = view.tensors.is_param & view.tensors.trainable & ~view.held
    yield Claim(
        tensors=tensors,
        message=message,
        advice=advice,
        evidence={
            "changed_step": steps,
            "held": [", and no optimizer holds it yet" if outside[i] else "" for i in tensors],
            "before": [first[index].before for index in tensors.tolist()],
            "after": [first[index].after for index in tensors.tolist()],
        },
        first_step=steps,
        last_good_step=steps - 1,
        key=key,
    )
