"""
The detector parameter-not-in-optimizer: a parameter that gets gradients and that nobody updates.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import SlotChanged
from trainvitals_monitor.detectors.detector import (
    Alert,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.detectors.stretch import look_back
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_ROUNDING = 1e-6


class ParameterNotInOptimizer(Detector):
    """
    Detects:
        A parameter that requires a gradient, gets one that is not zero at several looks, does not move, and is held by
        no optimizer. One that is left from before, and at most scaled down by clipping, is not got: its norm never
        rises. A warning while it is the smaller part of what is trainable, or if it was made trainable in the middle of
        the training; else info (with most of the model outside, training only a head was meant, as a rule).

    Why it matters:
        The parameter keeps its initial value for the whole training, while its gradient is paid for at every step.

    Known causes:
        Modules replaced or added after the optimizer was made
        (https://github.com/meta-pytorch/opacus/issues/432); parameters re-created by a wrapper
        (https://github.com/huggingface/accelerate/issues/2665); a filter by name that misses some; layers that are
        unfrozen later (https://github.com/OptimalScale/LMFlow/issues/726).

    Fix:
        Make the optimizer when the model is complete, or call `optimizer.add_param_group`; freeze with
        `requires_grad_(False)` what is not to be trained.

    Misses:
        Says nothing while no optimizer holds any tensor of the model, nor under master weights that could not be
        mapped. A gradient that is cleared and falls from look to look is taken for one left over. A group that is added
        only after many steps, with its gradients computed before, is reported until then.
    """

    name = "parameter-not-in-optimizer"
    family = "coverage"
    severity = Severity.WARNING
    summary = "A parameter gets gradients, but no optimizer holds it."
    reads = ("grad_norm", "changed", "OptimizersSeen", "SlotChanged")
    alert = Alert(hold="5m", summary="A parameter gets gradients, but no optimizer holds it")
    thresholds = (
        Threshold(
            name="looks",
            default=6,
            unit="looks with a gradient",
            reason="a second optimizer, such as a GAN's, may take its first step some steps later",
        ),
        Threshold(
            name="rises",
            default=2,
            unit="looks with a larger gradient than before",
            reason="a left-over gradient stays or is scaled down; one that is computed anew varies, or adds up",
        ),
        Threshold(
            name="share",
            default=0.5,
            unit="ratio of the trainable elements",
            reason="with more than half outside, training a head on features is what was meant",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        tensors = self._suspects(view)
        if not len(tensors):
            return
        grad, _ = look_back(view, "grad_norm", _WINDOW, tensors)
        changed, _ = look_back(view, "changed", _WINDOW, tensors)
        with np.errstate(invalid="ignore"):
            looks = (grad > 0).sum(axis=0)
            chosen = (
                (looks >= self.threshold("looks", view)[tensors])
                & (_rises(grad) >= self.threshold("rises", view)[tensors])
                & ~(changed > 0).any(axis=0)
            )
            first = view.window_steps(_WINDOW)[(grad > 0).argmax(axis=0)]
        if not chosen.any():
            return
        tensors = tensors[chosen]
        share = _share(view, tensors)
        yield Claim(
            tensors=tensors,
            message="no optimizer holds {fqn}, which got a gradient at {looks} looks (norm {grad_norm:.2g}) and never "
            "moved.",
            advice="Make the optimizer after the model is complete, or freeze it with requires_grad_(False).",
            evidence={
                "looks": looks[chosen],
                "grad_norm": view.latest("grad_norm")[tensors],
                "share": np.full(len(tensors), share),
            },
            first_step=first[chosen],
            severity=Severity.INFO
            if share > self.value("share") and not _unfrozen(view, tensors)
            else Severity.WARNING,
        )

    def _suspects(self, view: View) -> IntArray:
        optimizers = view.optimizers
        if optimizers is None or optimizers.masters or not view.held.any():
            return np.empty(0, np.int64)
        # Of adapters that are trained in turn the flags change at every step, and are told now and then only.
        trainable = view.tensors.trainable.copy()
        trainable[list(_switched(view))] = True
        outside = view.tensors.is_param & trainable & ~view.held
        if not outside.any():
            return np.empty(0, np.int64)
        with np.errstate(invalid="ignore"):
            return np.flatnonzero(outside & (view.latest("grad_norm") > 0))


def _rises(grad: FloatArray) -> IntArray:
    """At how many looks it was larger than at the look before, by more than rounding."""
    before = np.full(grad.shape[1], np.nan)
    rises = np.zeros(grad.shape[1], np.int64)
    for row in grad:
        rises += row > before * (1 + _ROUNDING)
        before = np.where(np.isnan(row), before, row)
    return rises


def _unfrozen(view: View, tensors: IntArray) -> bool:
    """Whether most of them were frozen at the start: somebody made them trainable to train them."""
    return 2 * len(_switched(view).intersection(tensors.tolist())) > len(tensors)


def _switched(view: View) -> set[int]:
    """Tensors that were frozen or made trainable in the middle of the training."""
    return {
        at.event.tensor for at in view.past_events(SlotChanged) if "trainable" in at.event.changes
    }


def _share(view: View, tensors: IntArray) -> float:
    table = view.tensors
    trainable = table.is_param & table.trainable
    return float(table.numel[tensors].sum() / max(table.numel[trainable].sum(), 1))
