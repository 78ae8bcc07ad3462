"""
The detector optimizer-state-reset: weights go on, and the optimizer starts again from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.continuation import goes_on_from_last_save
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
from trainvitals_monitor.history import Previous, View

_FIRST_STEPS = 3
"""Counters are looked at in each of an attempt's first steps."""
_WINDOW = 256
_BESIDE = 4
"""Losses on each side of a reset that are compared."""


class OptimizerStateReset(Detector):
    """
    Detects:
        An attempt whose weights go on from what the one before saved together with its optimizer, while most of the
        optimizer's own step counters begin at 0 again. Or counters that go on, with second moments that have fallen to
        a tenth. Or counters that began anew within an attempt, three times at equal distances, though nothing else did:
        no load, no learning rate that rose, no jump of the loss. Fewer are info, and so is a model with other parameters
        or shapes than before, to which the old state cannot fit.

    Why it matters:
        Adam's first steps after a reset are as long as its learning rate allows, whatever the gradients are: the loss
        jumps at each restart, and the schedule of bias correction does not fit the learning rate's any more.

    Known causes:
        A template of an optimizer that has not stepped has no moments to fill, so nothing is loaded into it
        (https://github.com/KempnerInstitute/KempnerForge/issues/114); the optimizer is made anew after it was loaded, or
        in each epoch (https://github.com/OpenNMT/OpenNMT-py/issues/38).

    Fix:
        Load the optimizer's state after the last time that the optimizer is made, and compare one parameter's
        `state["step"]` with the file.

    Misses:
        Optimizers without counters (SGD with momentum). Weights without optimizer state in any save that was seen are
        a fresh start by choice, and info; so are optimizers made anew less than three times in 256 steps (adapters that
        are merged now and then do so by design, an optimizer made in each long epoch by mistake). A reset that is meant (a
        new phase under the same run name) is reported: give each phase its own run.
    """

    name = "optimizer-state-reset"
    family = "optimizer"
    severity = Severity.WARNING
    summary = "Weights go on, and the optimizer starts again from nothing."
    reads = ("optimizer_step", "second_moment", "CheckpointSeen", "manifest", "digests")
    alert = Alert(summary="The optimizer's state was lost at a restart")
    thresholds = (
        Threshold(
            name="steps",
            default=8,
            unit="steps",
            reason="an optimizer that had hardly begun has little to lose",
        ),
        Threshold(
            name="share",
            default=0.5,
            unit="ratio of the parameters with a counter",
            reason="a few parameters that are new to the optimizer begin at 0 by right",
        ),
        Threshold(
            name="moments_left",
            default=0.1,
            unit="ratio to the second moment before",
            reason="one step changes it by (1 - beta2), a twentieth at most; starting from zero it has that at most",
        ),
        Threshold(
            name="times",
            default=3,
            unit="times at equal distances",
            reason="a second phase begins once; a loop that makes its optimizer does so in every round",
        ),
        Threshold(
            name="loss_jump",
            default=0.1,
            unit="ratio of the loss before",
            reason="another task or data set, for which a fresh optimizer is a choice, begins with a higher loss",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        counters = view.now("optimizer_step")
        if not np.isfinite(counters).any():
            return
        if view.step <= view.base_step + _FIRST_STEPS and view.previous is not None:
            before = _values_before(view, "optimizer_step")
            yield from self._began_anew(view, counters, before)
            yield from self._lost_moments(view, counters, before)
        else:
            yield from self._went_back(view, counters)

    def _began_anew(self, view: View, counters: FloatArray, before: FloatArray) -> Iterable[Claim]:
        """Counters of a new optimizer, beside weights that were saved after many steps."""
        previous = view.previous
        save = previous.last_save if previous else None
        known = np.isfinite(counters) & np.isfinite(before)
        made = view.step - view.base_step + 1  # a step before the agent was attached
        with np.errstate(invalid="ignore"):
            fresh = known & (counters <= made) & (before - counters >= self.value("steps"))
        if previous is None or save is None or not self._is_most(fresh, known):
            return
        if save.step - counters[fresh].max() < self.value("steps"):
            return
        if not goes_on_from_last_save(view):
            return
        saves = [one for one in previous.last_checkpoints if one.op == "save"]
        if not any(one.has_optimizer and not one.failed for one in [*saves, save]):
            return  # the weights alone were kept: a fresh optimizer is a choice
        yield _claim(
            view,
            fresh,
            before,
            "counts step {counter} of {fqn} after {before} in the attempt before, although the weights go on from "
            "the save of step {save_step}",
            {"save_step": np.full(int(fresh.sum()), save.step)},
            None if _is_same_model(view, previous) else Severity.INFO,
        )

    def _lost_moments(
        self, view: View, counters: FloatArray, before: FloatArray
    ) -> Iterable[Claim]:
        """Counters go on and second moments don't."""
        now, then = view.now("second_moment"), _values_before(view, "second_moment")
        with np.errstate(invalid="ignore"):
            known = (then > 0) & (now >= 0) & (counters >= np.maximum(0.5 * before, 16))
            fallen = known & (now < self.value("moments_left") * then)
        if known.any() and int(fallen.sum()) >= 0.8 * int(known.sum()):
            yield _claim(
                view,
                fallen,
                before,
                "counts step {counter} of {fqn}, but its second moment has fallen to {moment:.2g} from {moment_before:.2g} "
                "in the attempt before",
                {"moment": now[fallen], "moment_before": then[fallen]},
            )

    def _went_back(self, view: View, counters: FloatArray) -> Iterable[Claim]:
        """The optimizer was made anew, or loaded, in the middle of the attempt."""
        values, _ = view.window("optimizer_step", _WINDOW)
        rows = np.isfinite(values).any(axis=1)
        looked = values[rows]
        if len(looked) < 2:
            return
        known = np.isfinite(counters)
        with np.errstate(invalid="ignore"):
            back = looked[:-1] - looked[1:] >= self.value("steps")
        most = back.sum(axis=1) >= max(1.0, self.value("share") * int(known.sum()))
        steps = view.window_steps(_WINDOW)[rows]
        resets = steps[1:][most]
        if not most[-1] or any(
            one.step > steps[-2] - _FIRST_STEPS for one in view.checkpoints("load")
        ):
            return
        in_rounds = self._is_in_rounds(view, resets)
        yield _claim(
            view,
            back[-1],
            looked[-2],
            "counts step {counter} of {fqn} after {before} at the last look, not for the first time, while everything else "
            "goes on"
            if in_rounds
            else "counts step {counter} of {fqn} after {before} at the last look",
            {},
            Severity.WARNING if in_rounds else Severity.INFO,
            int(resets[0]) if in_rounds else None,
        )

    def _is_in_rounds(self, view: View, resets: IntArray) -> bool:
        """Whether nothing but the optimizer begins anew, again and again: a loop makes it, and not a new phase."""
        times = int(self.value("times"))
        resets = resets[-times:]
        if len(resets) < times or np.ptp(np.diff(resets)) > 2:
            return False
        if any(one.step >= resets[0] - _FIRST_STEPS for one in view.checkpoints("load")):
            return False
        settled = view.lr_settled[view.held]
        if not len(settled) or np.nanmin(settled) < view.step - resets[0]:
            return False
        return all(self._loss_goes_on(view, step) for step in resets.tolist())

    def _loss_goes_on(self, view: View, reset: int) -> bool:
        """The step of a reset is logged with the loss of the weights before it; the next ones are those that may jump."""
        steps, losses = view.scalar("loss", _WINDOW)
        before = losses[(steps < reset) & (steps >= reset - _BESIDE)]
        since = losses[(steps >= reset) & (steps < reset + _BESIDE)]
        if not len(before) or not len(since):
            return True
        middle, spread = float(np.median(before)), float(np.ptp(before))
        jump = float(np.median(since)) - middle
        return jump <= max(self.value("loss_jump") * abs(middle), spread)

    def _is_most(self, part: BoolArray, known: BoolArray) -> bool:
        return bool(part.any()) and int(part.sum()) >= self.value("share") * int(known.sum())


def _is_same_model(view: View, previous: Previous) -> bool:
    """Whether the state of the optimizer before could be loaded: the parameters and their shapes are what they were."""
    tensors = view.tensors
    shapes = dict(zip(tensors.fqn, tensors.shape, strict=True))
    trained = set(previous.values.get("optimizer_step", {}))
    now = {tensors.fqn[index] for index in np.flatnonzero(view.held)}
    return trained <= now and all(previous.shapes.get(fqn) == shapes[fqn] for fqn in now)


def _values_before(view: View, stat: str) -> FloatArray:
    """The last values of the attempt before, by this attempt's tensors."""
    values = view.previous.values.get(stat, {}) if view.previous else {}
    return np.array([values.get(fqn, np.nan) for fqn in view.tensors.fqn], np.float64)


def _claim(
    view: View,
    mask: BoolArray,
    before: FloatArray,
    what: str,
    evidence: dict[str, FloatArray],
    severity: Severity | None = None,
    first_step: int | None = None,
) -> Claim:
    tensors = np.flatnonzero(mask)
    return Claim(
        tensors=tensors,
        message=f"the optimizer {what}.",
        advice="Load the optimizer's state after the last time that the optimizer is made, and compare its counters "
        "with the file.",
        evidence={
            "counter": view.now("optimizer_step")[mask].astype(np.int64),
            "before": np.nan_to_num(before[mask]).astype(np.int64),
            **evidence,
        },
        first_step=np.full(len(tensors), view.step if first_step is None else first_step),
        severity=severity,
    )
