"""
The detector eval-mode-in-training: a model that was trained in train mode and now goes on in eval mode.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    Threshold,
)
from trainvitals_monitor.detectors.modes import Modes, modes_of, norm_modules
from trainvitals_monitor.detectors.stretch import look_back, looks_before
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_WINDOW = 64


class EvalModeInTraining(Detector):
    """
    Detects:
        Most of the parameters that are trained belong to modules that were in train mode at earlier steps, and have
        been in eval mode at every optimizer step for some time, in a model with dropout or batch normalisation.
        Without either it is info, and so is a model that was in eval mode from its first step on.

    Why it matters:
        Dropout is off and batch norms use, and no longer learn, their running statistics: the rest of the training
        regularises less, and the statistics no longer fit the weights.

    Known causes:
        `model.eval()` for a validation inside an epoch, and `model.train()` only at the start of the next one
        (https://github.com/fartashf/vsepp/issues/4).

    Fix:
        Call `model.train()` after each evaluation, best inside the evaluating function, or at each training step.

    Misses:
        Modules switched to eval mode one part at a time (a backbone, all batch norms: those are choices); models that
        were never in train mode; modules without parameters, whose mode is not looked at by itself. Modes that change more
        often than a few looks in a row can tell.
    """

    name = "eval-mode-in-training"
    family = "modes"
    severity = Severity.WARNING
    summary = "A model that was trained in train mode goes on in eval mode."
    reads = ("ModesSeen", "update_norm", "OptimizersSeen", "lr")
    alert = Alert(hold="5m", summary="The model has been left in eval mode")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="optimizer steps",
            reason="a trainer that takes a few steps in eval mode on purpose (calibration, a probe) is back by then",
        ),
        Threshold(
            name="share",
            default=0.5,
            unit="ratio of the trained parameters, those of batch norms not counted",
            reason="freezing a backbone or all batch norms is a choice; leaving the whole model in eval mode is not",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        modes = modes_of(view)
        if modes is None or not modes.settled or not modes.last.tensors:
            return
        with np.errstate(invalid="ignore"):
            trained = view.tensors.trainable & view.held & (view.lr > 0)
        trained &= norm_modules(view).number < 0
        long = (modes.since >= 0) & (view.step - modes.since + 1 >= self.value("steps"))
        if not self._is_most(trained & long, trained):
            return
        long &= _move(view, modes, trained & long)
        switched = trained & long & modes.trained
        always = trained & long & ~modes.trained
        if self._is_most(switched, trained):
            depends = modes.dropouts_off > 0 or _norms_off(view, modes, modes.trained)
            severity = Severity.WARNING if depends else Severity.INFO
            how = "although it was in train mode before"
            yield self._claim(view, modes, switched, severity, how)
            return
        depends = modes.last.dropouts_evaluating > 0 or _norms_off(view, modes, ~modes.trained)
        if depends and self._is_most(always, trained):
            how = "as it was from the first step on"
            yield self._claim(view, modes, always, Severity.INFO, how)

    def _is_most(self, part: BoolArray, trained: BoolArray) -> bool:
        return bool(part.any()) and int(part.sum()) >= self.value("share") * int(trained.sum())

    def _claim(
        self, view: View, modes: Modes, mask: BoolArray, severity: Severity, how: str
    ) -> Claim:
        tensors = np.flatnonzero(mask)
        count, since = len(tensors), modes.since[mask]
        return Claim(
            tensors=tensors,
            message="the model has been in eval mode for {steps} optimizer steps, since step {since_step}, "
            f"{how}, {{fqn}} among it; "
            "{dropouts} dropouts and {batch_norms} batch norms are in eval mode.",
            advice="Call model.train() after each evaluation, or at each training step.",
            evidence={
                "steps": view.step - since + 1,
                "since_step": since,
                "dropouts": np.full(count, modes.last.dropouts_evaluating),
                "batch_norms": np.full(count, modes.last.batch_norms_evaluating),
            },
            first_step=since,
            last_good_step=np.where(modes.trained[mask], since - 1, -1),
            severity=severity,
        )


def _move(view: View, modes: Modes, mask: BoolArray) -> BoolArray:
    """
    Those of `mask` that are trained in eval mode: they moved, at most of the looks that are about steps in that mode alone.
    Those that were not looked at are taken for what most others are.

    Modes are known of the steps that were looked at. Where others lie between two looks at a tensor, it may have been
    in train mode, and moved, in those.
    """
    tensors = np.flatnonzero(mask)
    update, seen = look_back(view, "update_norm", _WINDOW, tensors)
    since, _ = look_back(view, "since", _WINDOW, tensors)
    steps = view.window_steps(_WINDOW)
    looks_at_any = np.cumsum(view.window("update_norm", _WINDOW)[1].any(axis=1))
    before = looks_before(seen)
    whole = (before >= 0) & (
        looks_at_any[:, None] - looks_at_any[before] == steps[:, None] - steps[before]
    )
    with np.errstate(invalid="ignore"):
        inside = seen & whole & (since > 0) & (steps[before] + 1 >= modes.since[tensors])
        still = (inside & (update == 0)).sum(axis=0)
    looks = inside.sum(axis=0)
    move = (looks > 0) & (2 * still <= looks)
    moving: BoolArray = mask.copy()
    moving[tensors] = move | ((looks == 0) & (2 * move.sum() > (looks > 0).sum()))
    return moving


def _norms_off(view: View, modes: Modes, mask: BoolArray) -> bool:
    """Whether running statistics among these are of modules in eval mode."""
    return bool((norm_modules(view).statistic & (modes.since >= 0) & mask).any())
