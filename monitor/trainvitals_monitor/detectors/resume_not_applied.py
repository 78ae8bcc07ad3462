"""
The detector resume-not-applied: training that goes on from something else than what was saved or loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainvitals.facts import SKETCH_SIZE
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
from trainvitals_monitor.history import Checkpoint, View, sketch_of

_MIN_ELEMENTS = 16


class ResumeNotApplied(Detector):
    """
    Detects:
        The state that an attempt's first step starts from is unrelated to what was loaded before it, in most tensors.
        Or, when its optimizer's counters go on from an earlier attempt, to every checkpoint that the attempt before
        saved. Or a load of which most keys matched no tensor, and most tensors no key.

    Why it matters:
        Training starts over from a random model, with the step count, schedule and optimizer state of a trained one.

    Known causes:
        Weights initialised again after loading (https://github.com/huggingface/picotron/issues/32,
        https://github.com/huggingface/transformers/issues/46620); `to_empty()` after loading
        (https://github.com/pytorch/torchtitan/issues/421); keys with another prefix under strict=False or a partial
        load (https://github.com/pytorch/torchtitan/issues/961).

    Fix:
        Load last, after materialising, wrapping and initialising; print the missing and unexpected keys; compare one
        tensor with the file.

    Misses:
        Tensors that most initialisations fill alike (norms at 1). Tensors are unrelated when their distance, estimated
        from sketches, is of the order of their sizes; a state that is only older, cast or one step further is not.
        Attempts that load nothing are fresh starts, unless Adam's counters say otherwise; deliberately re-initialised layers are reported only if
        they are more than half of the tensors.
    """

    name = "resume-not-applied"
    family = "checkpoint"
    severity = Severity.CRITICAL
    summary = "A resumed run does not start from what was saved or loaded."
    reads = ("CheckpointSeen", "manifest", "digests")
    alert = Alert(summary="A resumed run does not start from what was saved or loaded")
    thresholds = (
        Threshold(
            name="unrelated",
            default=0.35,
            unit="squared distance over the sum of both squared norms",
            reason="two unrelated tensors are at 1, a tensor and its zeroing at 1, a few steps of training below "
            "0.1; eight signed sums scatter the estimate by half",
        ),
        Threshold(
            name="share",
            default=0.5,
            unit="ratio of the tensors compared",
            reason="a new head, or a few layers that are initialised anew by design, are fewer",
        ),
        Threshold(
            name="tensors",
            default=3,
            unit="tensors",
            reason="each distance is known to 50 % only; three that agree are no accident",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        loads = [one for one in view.new_checkpoints() if one.op == "load"]
        for load in loads:
            yield from self._unmatched(view, load)
        start = view.first_digests_step
        if start is None or start > view.base_step + 1:
            return
        if loads or view.step == start:
            yield from self._left_what_was_loaded(view, start)
        if view.step == start + 1 and _optimizer_continues(view, start):
            yield from self._left_what_was_saved(view, start)

    def _unmatched(self, view: View, load: Checkpoint) -> Iterable[Claim]:
        """Next to nothing of the load was in the model, and next to nothing of the model in the load."""
        matched, total = int((load.tensors >= 0).sum()), len(load.keys)
        most, tensors = self.value("share"), int(view.tensors.is_param.sum())
        if load.failed or load.foreign or total < self.value("tensors"):
            return
        nothing_fits = matched < (1 - most) * total and len(load.unexpected) >= most * total
        if nothing_fits and len(load.missing) >= most * tensors > 0:
            yield Claim(
                message="the load{path} at step {load_step} matched {matched} of its {keys} keys, and left {missing} "
                "tensors of the model as they were.",
                advice="Map the checkpoint's names to the model's, and do not pass over missing and unexpected keys.",
                evidence={
                    "path": [_path(load)],
                    "load_step": [load.step],
                    "matched": [matched],
                    "keys": [total],
                    "missing": [len(load.missing)],
                    "unexpected_key": [load.unexpected[0]],
                    "missing_key": [load.missing[0]],
                },
                first_step=load.step,
                key=f"unmatched {load.path or load.step}",
            )

    def _left_what_was_loaded(self, view: View, start: int) -> Iterable[Claim]:
        far, loads = self._far_from_loads(view, start)
        if far is not None:
            yield _claim(far, start, "what was loaded{path} at step {source_step}", loads[-1])

    def _left_what_was_saved(self, view: View, start: int) -> Iterable[Claim]:
        """Unrelated to every save: a roll-back continues from one of them."""
        saves, beginning = _saves_before(view), _beginning(view)
        if not saves or self._far_from_loads(view, start)[0] is not None:
            return
        far = np.zeros(view.num_tensors, np.bool_)
        for save, tensors in saves:
            saved = _blank(view.num_tensors)
            _fill(saved, save, tensors)
            far, known = self._unrelated(view, beginning, saved)
            if not self._is_most(far, known):
                return
        what = "what the attempt before saved (last{path} at step {source_step}), although its optimizer continues"
        yield _claim(far, start, what, saves[-1][0])

    def _far_from_loads(self, view: View, start: int) -> tuple[BoolArray | None, list[Checkpoint]]:
        """Tensors that began unrelated to what was loaded before, None unless they are most of those loaded."""
        loads = [one for one in view.checkpoints("load") if not (one.failed or one.foreign)]
        loads = [one for one in loads if one.step <= start]
        loaded = _blank(view.num_tensors)
        for load in loads:  # a later load overwrites an earlier one
            _fill(loaded, load, load.tensors)
        far, known = self._unrelated(view, _beginning(view), loaded)
        return (far if self._is_most(far, known) else None), loads

    def _unrelated(self, view: View, state: _State, source: _State) -> tuple[BoolArray, BoolArray]:
        """Tensors whose distance is of the order of their sizes; and those that could be compared."""
        known = (source.count == state.count) & (source.count >= _MIN_ELEMENTS)
        known &= (source.square_sum > 0) & np.isfinite(source.square_sum)
        distance = ((state.sketch - source.sketch) ** 2).mean(axis=1)
        size = np.maximum(state.square_sum + source.square_sum, np.finfo(np.float64).tiny)
        apart = (state.digest != source.digest) & (
            distance > self.threshold("unrelated", view) * size
        )
        return known & apart, known

    def _is_most(self, far: BoolArray, known: BoolArray) -> bool:
        count = int(far.sum())
        return count >= max(self.value("tensors"), self.value("share") * int(known.sum()))


@dataclass(frozen=True)
class _State:
    """One state of all tensors, as digests have it; `count` 0: not known."""

    digest: npt.NDArray[np.uint64]
    count: IntArray
    square_sum: FloatArray
    sketch: FloatArray


def _blank(num_tensors: int) -> _State:
    return _State(
        np.zeros(num_tensors, np.uint64),
        np.zeros(num_tensors, np.int64),
        np.zeros(num_tensors),
        np.zeros((num_tensors, SKETCH_SIZE)),
    )


def _optimizer_continues(view: View, start: int) -> bool:
    """Whether the optimizer's own counters have steps of earlier attempts in them: then this one means to go on."""
    counters = view.now("optimizer_step")
    counted = counters[np.isfinite(counters)]
    return len(counted) > 0 and float(np.median(counted)) - 1 >= max(2.0, 0.5 * start)


def _beginning(view: View) -> _State:
    """The attempt's first digests."""
    columns, num_tensors = view.first_digests(), view.num_tensors
    if columns is None:
        return _blank(num_tensors)
    return _State(
        columns["digest"][:num_tensors],
        columns["count"][:num_tensors],
        columns["square_sum"][:num_tensors],
        sketch_of(columns, slice(num_tensors)),
    )


def _fill(state: _State, checkpoint: Checkpoint, tensors: IntArray) -> None:
    """Take over what the checkpoint's manifest measured; `tensors` are this view's indices of its entries."""
    if not checkpoint.rows:
        return
    entries = np.flatnonzero((tensors >= 0) & (checkpoint.rows["count"] > 0))
    indices = tensors[entries]
    state.digest[indices] = checkpoint.rows["digest"][entries]
    state.count[indices] = checkpoint.rows["count"][entries]
    state.square_sum[indices] = checkpoint.rows["square_sum"][entries]
    state.sketch[indices] = checkpoint.sketch(entries)


def _saves_before(view: View) -> list[tuple[Checkpoint, IntArray]]:
    """The model's saves that the attempt before left, up to where this one begins, with this view's indices."""
    previous = view.previous
    if previous is None:
        return []
    names = {index: fqn for fqn, index in previous.tensors.items()}
    found = [
        (save, [names.get(index, "") for index in save.tensors.tolist()])
        for save in previous.last_checkpoints
        if save.op == "save" and save.is_model and not (save.failed or save.foreign)
    ]
    if not found and previous.last_save is not None:
        found = [(previous.last_save, previous.last_save_fqns)]
    return [(save, _indices(view, fqns)) for save, fqns in found if save.step <= view.base_step + 1]


def _indices(view: View, fqns: list[str]) -> IntArray:
    found = (view.tensors.index_of(fqn) for fqn in fqns)
    return np.array([-1 if index is None else index for index in found], np.int64)


def _path(checkpoint: Checkpoint) -> str:
    return f" {checkpoint.path}" if checkpoint.path else ""


def _claim(far: BoolArray, start: int, what: str, source: Checkpoint) -> Claim:
    tensors = np.flatnonzero(far)
    count = len(tensors)
    return Claim(
        tensors=tensors,
        message="training starts at step {start_step} with {tensors} tensors, {fqn} first, that are unrelated to "
        f"{what}.",
        advice="Load last, after materialising, wrapping and initialising the model, and look at the load's missing keys.",
        evidence={
            "start_step": np.full(count, start),
            "tensors": np.full(count, count),
            "path": [_path(source)] * count,
            "source_step": np.full(count, source.step),
        },
        first_step=start,
        key=f"unrelated {source.op}",
    )
