"""
The detector resume-mismatched: weights that a resume took from another time than the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.journey import has_gone, is_nearer_to_another_save, journey
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class ResumeMismatched(Detector):
    """
    Detects:
        The optimizer's counters go on where the attempt before ended, but most weights have gone back on their way to where
        the run began, by more steps than lie in between, and are no save's.

    Why it matters:
        Steps of training are lost, though the step count, the schedule and the optimizer's moments say that they were
        made. Moments and learning rate do not fit the weights.

    Known causes:
        Only the averaged weights (EMA) were saved, and the resume puts them into the model
        (https://github.com/Megvii-BaseDetection/YOLOX/issues/1318, https://github.com/ultralytics/yolov5/issues/310);
        weights of an older file beside the newest optimizer state.

    Fix:
        Save and load the weights that the optimizer holds, and the average beside them; take both from one file.

    Misses:
        Optimizers without counters. Averages over fewer steps than lie between the last look at the weights and the
        restart. Weights that equal an earlier checkpoint are taken for a choice, and so are those of a roll-back.
    """

    name = "resume-mismatched"
    family = "checkpoint"
    severity = Severity.WARNING
    summary = "A resumed run has older weights than its optimizer."
    reads = ("digests", "CheckpointSeen", "manifest", "update_norm", "optimizer_step")
    alert = Alert(summary="A resumed run has older weights than its optimizer")
    thresholds = (
        Threshold(
            name="back",
            default=0.75,
            unit="distance from where the run began, over that of the last weights",
            reason="training goes on from there; distances are estimated, medians of many are known to a tenth",
        ),
        Threshold(
            name="steps_away",
            default=3.0,
            unit="usual updates of a step, beyond one for each step in between",
            reason="no training goes further than its updates in a straight line",
        ),
        Threshold(
            name="tensors",
            default=4,
            unit="tensors",
            reason="each distance is known to 50 % only",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        previous = view.previous
        if view.is_late or previous is None or view.step != view.base_step + 1:
            return
        found = journey(view)
        if found is None:
            return
        leads = np.array([previous.leads.get(fqn, np.nan) for fqn in view.tensors.fqn], np.float64)
        between = view.latest("optimizer_step") - (found.end_steps + leads)
        judged = has_gone(found) & view.tensors.is_param & (found.pace > 0) & np.isfinite(between)
        if int(judged.sum()) < self.value("tensors") or float(np.median(between[judged])) < 1:
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            back = np.sqrt(found.from_origin / found.way)
            away = np.sqrt(found.from_end / found.pace)
        far = away > np.maximum(between, 0) + self.threshold("steps_away", view)
        older = judged & far & (back < self.threshold("back", view))
        if 2 * int(older.sum()) <= int(judged.sum()) or is_nearer_to_another_save(view, judged):
            return
        tensors = np.flatnonzero(older)
        yield Claim(
            tensors=tensors,
            message="the optimizer goes on {between:.0f} steps after {fqn} was last looked at, but it and most of the weights "
            "are {away:.0f} usual steps away from there, on the way back to where the run began.",
            advice="Resume from the weights that were trained, not from their average, and from the same file as the optimizer.",
            evidence={
                "between": between[tensors],
                "away": away[tensors],
                "back": back[tensors],
                "tensors": np.full(len(tensors), len(tensors)),
            },
            first_step=view.step,
            last_good_step=view.base_step,
        )
