"""
The detector checkpoint-stale: a save in which some tensors are older than the rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, BoolArray, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View


class CheckpointStale(Detector):
    """
    Detects:
        A save most of which is the live model, bit for bit, and in which some entries are not: they equal what the
        tensor was at an earlier step, or are all zero while the live tensor is not.

    Why it matters:
        Training goes on undisturbed, and the checkpoint is wrong: what resumes or serves from it has a router without
        its bias, or a part of the model from hours ago.

    Known causes:
        A state dict that was built once and cached, while the model replaces a buffer instead of updating it
        (https://github.com/pytorch/torchtitan/issues/1222, fixed in
        https://github.com/pytorch/torchtitan/pull/1226).

    Fix:
        Build the state dict in the save, and update buffers in place. Repair the checkpoint from the live model, or go
        back to one made before.

    Misses:
        A save that is old as a whole (the best model so far, kept aside) is legal, and so are averaged weights: nothing
        is said of either. Only the elements that are looked at are compared, and only saves seen from inside the call.
    """

    name = "checkpoint-stale"
    family = "checkpoint"
    severity = Severity.CRITICAL
    summary = "A checkpoint holds tensors that are older than the model."
    reads = ("CheckpointSeen", "manifest", "changed")
    alert = Alert(summary="A checkpoint was written with tensors that are older than the model")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for save in view.new_checkpoints():
            if save.op == "save" and save.is_model and not (save.failed or save.foreign):
                yield from _stale_entries(view, save)


def _stale_entries(view: View, save: Checkpoint) -> Iterable[Claim]:
    rows = save.rows
    if not rows:
        return
    measured = (save.tensors >= 0) & (rows["count"] > 0)
    same = measured & (rows["digest"] == rows["live_digest"])
    zero = (rows["square_sum"] == 0) & (rows["live_square_sum"] > 0)
    older = rows["stale_step"] >= 0
    stale = measured & ~same & (zero | older)
    if not stale.any():
        return
    # Beside entries that are live and moving; an average's or another model's dict has none, or few.
    moving = same & _moving(view, save)
    strange = measured & ~same & ~stale
    if int(moving.sum()) <= int(strange.sum()):
        return
    for chosen, message in (
        (
            stale & zero,
            "the checkpoint{path} of step {saved_step} holds {fqn} as all zeros, while the live one is not.",
        ),
        (
            stale & ~zero,
            "the checkpoint{path} of step {saved_step} holds {fqn} as it was at step {stale_step}, not as it is.",
        ),
    ):
        if chosen.any():
            yield _claim(save, chosen, message)


def _moving(view: View, save: Checkpoint) -> BoolArray:
    tensors = np.maximum(save.tensors, 0)
    with np.errstate(invalid="ignore"):
        moving: BoolArray = (view.latest("changed") > 0)[tensors]
    return moving


def _claim(save: Checkpoint, chosen: BoolArray, message: str) -> Claim:
    entries = np.flatnonzero(chosen)
    count = len(entries)
    return Claim(
        tensors=save.tensors[entries],
        message=message,
        advice="Build the state dict anew in every save and update buffers in place; do not resume from this checkpoint.",
        evidence={
            "path": [f" {save.path}" if save.path else ""] * count,
            "key": [save.keys[entry] for entry in entries.tolist()],
            "saved_step": np.full(count, save.step),
            "stale_step": save.rows["stale_step"][entries],
            "saved_norm": np.sqrt(save.rows["square_sum"][entries]),
            "live_norm": np.sqrt(save.rows["live_square_sum"][entries]),
        },
        first_step=save.step,
    )
