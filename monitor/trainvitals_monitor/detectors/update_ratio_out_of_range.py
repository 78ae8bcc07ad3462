"""
The detector update-ratio-out-of-range: a training from scratch whose steps are next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, IntArray, Threshold
from trainvitals_monitor.detectors.losses import main_losses
from trainvitals_monitor.detectors.stepping import NORMALISING, RELATIVE, stepped_by
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64
_LOSS = 0.1
"""A loss below may be that of a training that has converged before the run began."""
_VARIED = 0.005
"""Standard deviation of losses, as a ratio: a full batch that has converged stays below, fresh batches above."""


class UpdateRatioOutOfRange(Detector):
    """
    Detects:
        In a run that began without loading anything, all weight matrices that the optimizers hold have together changed
        by less than a hundred-thousandth of their norm at every step, although learning rates are not near zero by schedule and there
        are gradients; and where the optimizer takes steps of the size of its rate, by far less than that. Where the loss is not known, small, or the same at every step, it is info: the training may have
        converged before.

    Why it matters:
        It would take hundreds of thousands of steps to train: something makes the gradients, or the rates, smaller by orders.

    Known causes:
        Gradients clipped or divided while they are still multiplied by the loss scale
        (https://github.com/Lightning-AI/pytorch-lightning/issues/9599), divided twice by it, or by the number of
        microbatches or tokens twice; an eps that is larger than the gradients.

    Fix:
        Compare the gradients' norm before the step with that right after `backward()`.

    Misses:
        Fine-tuning and resumed runs, which may have converged; parameters of 16 bits (updates-lost); steps that are too
        large (norm-explosion, non-finite).
    """

    name = "update-ratio-out-of-range"
    family = "movement"
    severity = Severity.WARNING
    summary = "Every step changes the weights by next to nothing."
    reads = ("update_norm", "norm", "since", "grad_norm", "lr", "scalars", "OptimizersSeen")
    alert = Alert(hold="5m", summary="Steps change the weights by next to nothing")
    thresholds = (
        Threshold(
            name="ratio",
            default=1e-5,
            unit="norm of a step, as a ratio of that of the weights",
            reason="the smallest of 60 healthy trainings from scratch was at 9e-4; AdamW at a rate of 1e-6 is at 2e-5",
        ),
        Threshold(
            name="looks",
            default=12,
            unit="looks since the attempt began",
            reason="a warm-up begins with small steps",
        ),
        Threshold(
            name="rate",
            default=0.5,
            unit="ratio to the largest learning rate so far",
            reason="below, it is the schedule that makes steps small",
        ),
        Threshold(
            name="asked",
            default=0.1,
            unit="ratio to a step of the learning rate's size in every element",
            reason="Adam's steps are between a tenth and the whole of it: then it is the rate that is small, by choice",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        if view.base_step or view.previous is not None or view.step > _WINDOW:
            return
        tensors = view.cached(self.name, lambda: _matrices(view))
        if not len(tensors) or not view.seen("update_norm")[tensors].any():
            return
        size = float(np.sqrt((view.latest("norm")[tensors] ** 2).sum()))
        enough = self.value("ratio") * size
        if not 0 < np.sqrt((view.latest("update_norm")[tensors] ** 2).sum()) < enough:
            return
        if not self._rates_stand(view, tensors) or view.checkpoints("load"):
            return
        updates, seen = (array[:, tensors] for array in view.window("update_norm", _WINDOW))
        steps = np.sqrt(np.nansum(np.where(seen, updates, 0.0) ** 2, axis=1))
        if seen.sum(axis=0).min() < self.value("looks") or steps.max() >= enough:
            return
        if steps.max() >= self.value("asked") * _asked(view, tensors) > 0:
            return
        count = len(tensors)
        yield Claim(
            tensors=tensors,
            message="no step so far has changed all weights together, {fqn} included, by more than {ratio:.2g} of their "
            "norm, at a learning rate of {lr:.2g} and with gradients (norm {grad_norm:.2g}).",
            advice="See what makes gradients small before the step: clipping or dividing them while they are scaled.",
            evidence={
                "ratio": np.full(count, steps.max() / size),
                "lr": view.lr[tensors],
                "grad_norm": view.latest("grad_norm")[tensors],
            },
            first_step=view.base_step + 1,
            severity=Severity.WARNING if self._has_much_to_learn(view) else Severity.INFO,
        )

    def _has_much_to_learn(self, view: View) -> bool:
        """Whether losses are not small and differ from batch to batch: then so do gradients, and they are not small."""
        for name in main_losses(view):
            _, losses = view.scalar(name, int(self.value("looks")))
            size = float(np.median(np.abs(losses))) if len(losses) else 0.0
            if size >= _LOSS and float(np.std(losses)) >= _VARIED * size:
                return True
        return False

    def _rates_stand(self, view: View, tensors: IntArray) -> bool:
        """Whether rates are positive, near the largest so far, and have not risen for some steps."""
        lr, peak = view.lr[tensors], view.peak_lr[tensors]
        high = (lr > 0) & (lr >= self.value("rate") * peak)
        settled = view.lr_settled[tensors] >= self.value("looks") - 1
        return bool((high & settled).all()) and bool((view.latest("grad_norm")[tensors] > 0).any())


def _asked(view: View, tensors: IntArray) -> float:
    """The norm of a step that has the size of the learning rate in every element; 0 where rates don't say so."""
    if not (stepped_by(view, NORMALISING) & ~stepped_by(view, RELATIVE))[tensors].all():
        return 0.0
    return float(np.sqrt((view.lr[tensors] ** 2 * view.tensors.numel[tensors]).sum()))


def _matrices(view: View) -> IntArray:
    """Trained weights of at least two dims and 32 bits, each once; empty if there are narrower ones."""
    table = view.tensors
    mask = table.is_param & table.trainable & view.held & (view.tied_to < 0)
    mask &= np.array([len(shape) > 1 for shape in table.shape], np.bool_)
    if (table.float_bits[mask] < 32).any():
        return np.empty(0, np.int64)
    return np.flatnonzero(mask)
