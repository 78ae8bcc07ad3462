"""
The detector loss-at-chance: a model that was loaded and predicts as if it had not been.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.losses import main_losses
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

# What the last layer of a classifier or language model is called (transformers, torchtitan, timm, torchvision).
_HEAD = re.compile(
    r"(?:^|\.)(?:lm_head|output|head|fc|classifier|score|logits|embed_out|proj_out)\.weight$"
)
_FIRST = 3


class LossAtChance(Detector):
    """
    Detects:
        The first losses of an attempt are the logarithm of the number of classes (ln 128256 = 11.76), although the
        layer that predicts them was loaded in this attempt, or is frozen: its weights are not those of a trained model.

    Why it matters:
        Uniform guessing is where a run from scratch starts. A fine-tuning or a resume that starts there has lost its
        weights, and will train on from nothing, or train adapters on a random base.

    Known causes:
        Weights loaded and then wiped by `to_empty()` or initialised again
        (https://github.com/pytorch/torchtitan/issues/421); a load with strict=False of which no key matched.

    Fix:
        Load after materialising and initialising the model, and look at the missing and unexpected keys of the load.

    Misses:
        Runs from scratch, and new heads on a loaded body, start at chance by right: the head must be loaded or frozen.
        A random model whose logits are wide starts above chance (see resume-not-applied). A loss that has other terms
        added, or is scaled, is not recognised.
    """

    name = "loss-at-chance"
    family = "loss"
    severity = Severity.WARNING
    summary = "A loaded model starts at the loss of uniform guessing."
    reads = ("scalars", "CheckpointSeen")
    alert = Alert(summary="A loaded model starts at the loss of uniform guessing")
    thresholds = (
        Threshold(
            name="tolerance",
            default=0.015,
            unit="ratio of ln(classes)",
            reason="a freshly initialised model is within 1 % of it; the reported run was at 11.79 of 11.76",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for name in main_losses(view):
            steps, values = view.scalar(name, _FIRST + 1)
            if not 0 < len(values) <= _FIRST or steps[-1] != view.step:
                continue
            head = view.cached("loss-at-chance", lambda: _predicting_layer(view))
            if head < 0 or not _was_trained(view, head):
                continue
            classes = view.tensors.shape[head][0]
            chance = float(np.log(classes))
            if np.all(np.abs(values - chance) <= self.value("tolerance") * chance):
                yield Claim(
                    tensors=np.array([head], np.int64),
                    message="{name} starts at {loss:.4g}, which is ln({classes}) = {chance:.4g}, that of uniform guessing, "
                    "although {fqn} {why}.",
                    advice="Load the weights after the model is materialised and initialised, and check which keys "
                    "matched.",
                    evidence={
                        "name": [name],
                        "loss": values[:1],
                        "classes": [classes],
                        "chance": [chance],
                        "why": ["was loaded" if _was_loaded(view, head) else "is frozen"],
                    },
                    first_step=int(steps[0]),
                )


def _predicting_layer(view: View) -> int:
    """The last head by name, else the embedding that an untied language model would share with it; -1: neither."""
    table = view.tensors
    matrices = [
        index for index, shape in enumerate(table.shape) if len(shape) == 2 and shape[0] > 8
    ]
    heads = [index for index in matrices if _HEAD.search(table.fqn[index])]
    tied = [index for index in matrices if table.role[index] is Role.EMBEDDING]
    return (heads or tied or [-1])[-1]


def _was_trained(view: View, head: int) -> bool:
    frozen = not view.tensors.trainable[head] and bool(view.tensors.trainable.any())
    return frozen or _was_loaded(view, head)


def _was_loaded(view: View, head: int) -> bool:
    loads = [load for load in view.checkpoints("load") if not load.failed and not load.foreign]
    return any((load.tensors == head).any() for load in loads)
