"""
The detector weights-overwritten: weights of a save that were not the trained ones, and that training goes on from.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    FloatArray,
    IntArray,
    Threshold,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View

_WINDOW = 24
_RECENT = 16
"""Steps after a save in which the optimizers' counters are waited for."""
_PACE = 8
_SIGN_LIKE = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Lion"})
"""Each element moves by about the learning rate, whatever the gradient: 3.2 times it after a burst at the usual betas."""
_SUMS = frozenset({"SGD"})
_MOMENTUM = 10.0
"""What momentum of 0.9 makes of a gradient that stays."""


class WeightsOverwritten(Detector):
    """
    Detects:
        A save between two steps that saw other weights than the step before had left, after which nearly all trained
        matrices have moved much further than their optimizer can move them in a step, and than they do otherwise,
        while the optimizer's own counters go on.

    Why it matters:
        What was put in for the save was not taken out again: training goes on from an average, or starts over, with
        moments that belong to other weights. It happens again at each save.

    Known causes:
        Averaged weights are copied into the model to be saved and not swapped back
        (https://github.com/harubaru/waifu-diffusion/issues/31,
        https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/186); an average that is never updated is put in at the
        end of each epoch (https://github.com/MultimediaTechLab/YOLO/issues/97).

    Fix:
        Keep the trained weights aside before the average is copied in, and copy them back after the save; or save the
        average's own state dict.

    Misses:
        Weights that are overwritten without a save; averages so close that the optimizer could have gone there in a
        step or two; optimizers whose step has no bound that is known (LBFGS, Muon). Of several ranks only with a load
        into the model, for averaging local steps looks the same. Reads updates of the step after the save: under a
        small budget it may not be looked at. Weights that are averaged, saved and trained on by design, in steps as
        far as that, are reported.
    """

    name = "weights-overwritten"
    family = "checkpoint"
    severity = Severity.WARNING
    summary = "Weights put into the model for a save stayed there."
    reads = ("CheckpointSeen", "manifest", "update_norm", "norm", "optimizer_step", "lr")
    alert = Alert(summary="Training goes on from weights that were only meant to be saved")
    thresholds = (
        Threshold(
            name="reach",
            default=4.0,
            unit="times what the optimizer can do in a step",
            reason="a burst of gradient moves Adam's parameters by 3.2 learning rates; nearly all of them never",
        ),
        Threshold(
            name="pace",
            default=5.0,
            unit="times the usual update",
            reason="half the way back over five steps, Lookahead's, is two and a half",
        ),
        Threshold(
            name="share",
            default=0.8,
            unit="ratio of the trained matrices",
            reason="a layer that is drawn anew on purpose is one of many",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        saves = {
            save.step: save
            for save in view.checkpoints("save")
            if view.step - _RECENT <= save.step < view.step
            and save.is_model
            and save.rows
            and not (save.failed or save.foreign)
        }
        for step, save in saves.items():
            if self._is_time(view, step) and self._may_judge(view, step):
                yield from self._overwritten(view, save)

    def _is_time(self, view: View, step: int) -> bool:
        """At the first look at the optimizers' counters after the save, or at once where there are none."""
        seen = view.seen("optimizer_step").any()
        counted = (view.last_seen("optimizer_step") >= 0).any()
        return bool(seen or (not counted and view.step == step + 1))

    def _may_judge(self, view: View, step: int) -> bool:
        if view.optimizers is None or view.optimizers.masters:
            return False
        return view.world_size == 1 or any(load.step == step for load in view.checkpoints("load"))

    def _overwritten(self, view: View, save: Checkpoint) -> Iterable[Claim]:
        steps = view.window_steps(_WINDOW)
        after = int(np.searchsorted(steps, save.step + 1))
        if after < 4 or after >= len(steps) or steps[after] != save.step + 1:
            return
        if not _differed(view, save, after - 1) or _counters_fell(view, save.step):
            return
        table = view.tensors
        matrices = table.is_param & table.trainable & view.held
        matrices &= np.array([len(shape) >= 2 for shape in table.shape], np.bool_)
        updates, _ = view.window("update_norm", _WINDOW)
        since, _ = view.window("since", _WINDOW)
        known = matrices & (since[after] == 1)
        if int(known.sum()) < self.value("share") * int(matrices.sum()) or not known.any():
            return
        tensors = np.flatnonzero(known)
        if _others_began_to_move(view, after):
            return
        rows = updates[max(0, after - _PACE) : after, tensors]
        reach = self._reach(view, tensors, after)
        with np.errstate(invalid="ignore"):
            looks = np.isfinite(rows).sum(axis=0)
            pace = np.where(looks >= 3, np.nan_to_num(_median(rows), nan=np.inf), np.inf)
            far = updates[after, tensors] > self.threshold("reach", view)[tensors] * reach
            far &= updates[after, tensors] > self.threshold("pace", view)[tensors] * pace
        if int(far.sum()) < max(2.0, self.value("share") * len(tensors)):
            return
        chosen = tensors[far]
        yield Claim(
            tensors=chosen,
            message="the save of step {saved_step} found other weights in the model than the step before it had left, "
            "and training went on from those: {fqn} moved by {moved:.3g} in one step, {usual:.2g} is usual.",
            advice="Keep the trained weights aside before an average is copied in to be saved, and copy them back after.",
            evidence={
                "saved_step": np.full(len(chosen), save.step),
                "moved": updates[after, chosen],
                "usual": pace[far],
            },
            first_step=np.full(len(chosen), save.step),
            last_good_step=np.full(len(chosen), save.step - 1),
        )

    def _reach(self, view: View, tensors: IntArray, after: int) -> FloatArray:
        """The norm of the longest update that a step of the optimizer makes, infinite where that is not known."""
        names = _optimizer_names(view)
        lr, decay = view.lr[tensors], np.nan_to_num(view.weight_decay[tensors])
        norm = np.nan_to_num(view.latest("norm")[tensors])
        gradients, _ = view.window("grad_norm", _WINDOW)
        with np.errstate(invalid="ignore"):
            largest = np.nanmax(np.nan_to_num(gradients[: after + 1, tensors]), axis=0, initial=0.0)
        signs = lr * (np.sqrt(view.tensors.numel[tensors]) + decay * norm)
        sums = lr * _MOMENTUM * (largest + decay * norm)
        kinds = [names.get(index, "") for index in tensors.tolist()]
        is_sign = np.array([kind in _SIGN_LIKE for kind in kinds], np.bool_)
        is_sum = np.array([kind in _SUMS for kind in kinds], np.bool_) & (largest > 0)
        reach: FloatArray = np.where(is_sign, signs, np.where(is_sum, sums, np.inf))
        return reach


def _median(rows: FloatArray) -> FloatArray:
    """Per column, of what is known."""
    known = np.isfinite(rows)
    ordered = np.sort(np.where(known, rows, np.inf), axis=0)
    middle = np.maximum(known.sum(axis=0) - 1, 0) // 2
    found: FloatArray = ordered[middle, np.arange(rows.shape[1])]
    return found


def _differed(view: View, save: Checkpoint, row: int) -> bool:
    """Whether most trained tensors that were read whole had another norm at the save than after the step before it."""
    norms, _ = view.window("norm", _WINDOW)
    exact, _ = view.window("exact", _WINDOW)
    tensors = np.maximum(save.tensors, 0)
    trained = (save.tensors >= 0) & (view.held & view.tensors.trainable)[tensors]
    whole = trained & (save.rows["count"] == view.tensors.numel[tensors])
    live, before = np.sqrt(save.rows["live_square_sum"]), norms[row, tensors]
    with np.errstate(invalid="ignore"):
        known = whole & (exact[row, tensors] == 1) & np.isfinite(before)
        other = known & (np.abs(live - before) > 1e-5 * np.maximum(live, before))
    return int(other.sum()) >= 2 and 2 * int(other.sum()) > int(known.sum())


def _counters_fell(view: View, step: int) -> bool:
    """The optimizer was loaded, or made anew, along with the weights."""
    counters, _ = view.window("optimizer_step", 256)
    steps = view.window_steps(256)
    before, now = counters[steps <= step], view.now("optimizer_step")
    if not len(before):
        return False
    largest = np.nan_to_num(before).max(axis=0)
    return bool((now < largest).any())


def _others_began_to_move(view: View, row: int) -> bool:
    """A frozen base that takes up its adapters: what the model computes stays as it was."""
    changed, _ = view.window("changed", _WINDOW)
    others: BoolArray = view.tensors.is_param & ~view.held
    with np.errstate(invalid="ignore"):
        began = others & (changed[row] > 0) & ~(changed[row - 1] > 0)
    return bool(began.any())


def _optimizer_names(view: View) -> dict[int, str]:
    """By tensor, the class of the optimizer that holds it."""

    def find() -> dict[int, str]:
        seen = view.optimizers
        if seen is None:
            return {}
        return {
            tensor: seen.optimizers[owner]
            for owner, group in zip(seen.group_optimizer, seen.group_tensors, strict=True)
            for tensor in group
        }

    return view.cached("optimizer-names", find)
