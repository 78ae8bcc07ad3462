"""
The detector slot-replaced: a parameter or buffer that became another tensor object while training.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.frame import OptimizersSeen, SlotChanged
from trainvitals_monitor.detectors.detector import (
    Alert,
    BoolArray,
    Claim,
    Detector,
    IntArray,
    Threshold,
)
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import EventAt, View


class SlotReplaced(Detector):
    """
    Detects:
        A persistent buffer whose slot is given new tensors while somebody still holds the memory of an older one,
        though those in between were freed: a warning, critical if it goes on. While nobody holds an old one, nothing
        is said: code that re-assigns its buffer and builds a state dict for each save is sound. And, critical, a
        trainable parameter that was replaced by another object which no optimizer holds.

    Why it matters:
        Whoever took a reference earlier keeps the old tensor: a cached state dict, a checkpointer, an optimizer, DDP.
        The model trains on with the new one, and the checkpoint is written from the old one.

    Known causes:
        `self.expert_bias = self.expert_bias + delta` in a step hook, with a state dict that was built once
        (https://github.com/pytorch/torchtitan/issues/1222). Modules swapped, or `load_state_dict(assign=True)`, after
        the optimizer took its parameters (https://github.com/meta-pytorch/opacus/issues/432).

    Fix:
        Update in place: `self.expert_bias.add_(delta)`, `self.buffer.copy_(new)`; for a parameter, `param.data.copy_`,
        or make the optimizer after the model is complete.

    Misses:
        Replacement before the first real step (legal: initialisation, casting, sharding). A buffer that is replaced
        only once, for a local variable may hold the old one; what such a fault does to a save, checkpoint-stale finds. An
        old buffer that is kept on purpose for long, while new ones take its place, is reported.
        Non-persistent buffers are
        caches that may be re-assigned, and are passed over, as are the masks of `torch.nn.utils.prune`, which makes new
        ones at each pruning. A swap of `.data` keeps the object and is no
        finding.
    """

    name = "slot-replaced"
    family = "identity"
    severity = Severity.CRITICAL
    summary = (
        "A buffer or parameter was replaced by a new tensor; holders of the old one are stale."
    )
    reads = ("SlotChanged", "OptimizersSeen")
    alert = Alert(summary="A buffer or parameter of the model was replaced during training")
    thresholds = (
        Threshold(
            name="repeats",
            default=3,
            unit="replacements",
            reason="once can be a move or a reload; three within `repeat_steps` is how the code updates the buffer",
        ),
        Threshold(
            name="repeat_steps",
            default=16,
            unit="steps",
            reason="an evaluation that moves the model back and forth seldom comes thrice in so few steps",
        ),
    )
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        new = [at for at in view.events(SlotChanged) if _is_replacement(at.event)]
        if new:
            yield from self._buffers(view, new)
        if new or _optimizers_changed(view):
            yield from self._parameters(view)

    def _buffers(self, view: View, new: list[EventAt[SlotChanged]]) -> Iterable[Claim]:
        table = view.tensors
        watched = table.persistent & ~table.is_param & ~_pruning_masks(view)
        chosen = [at.event for at in new if watched[at.event.tensor] and at.event.outlived >= 0]
        if not chosen or _is_move(view):
            return
        first = {event.tensor: event for event in reversed(chosen)}
        tensors = np.array(sorted(first), np.int64)
        times = self._times(view, tensors)
        repeated = times >= self.threshold("repeats", view)[tensors]
        for severity, mask in ((Severity.CRITICAL, repeated), (Severity.WARNING, ~repeated)):
            if mask.any():
                yield _buffer_claim(view, tensors[mask], times[mask], first, severity)

    def _times(self, view: View, tensors: IntArray) -> IntArray:
        since = view.step - int(self.value("repeat_steps"))
        pairs = {
            (at.event.tensor, at.event.step)
            for at in view.past_events(SlotChanged)
            if at.event.step > since and _is_replacement(at.event)
        }
        counts = np.bincount([tensor for tensor, _ in pairs], minlength=view.num_tensors)
        return counts[tensors].astype(np.int64)

    def _parameters(self, view: View) -> Iterable[Claim]:
        """Replaced in the last steps, and held by no optimizer now; the optimizers' report may come a step later."""
        if view.optimizers is None or view.optimizers.masters or not view.held.any():
            return
        orphan: BoolArray = view.tensors.is_param & view.tensors.trainable & ~view.held
        if not orphan.any():
            return
        recent = [
            at.event
            for at in view.past_events(SlotChanged)
            if at.event.step >= view.step - 2
            and _is_replacement(at.event)
            and orphan[at.event.tensor]
        ]
        first = {event.tensor: event for event in reversed(recent)}
        if first:
            tensors = np.array(sorted(first), np.int64)
            steps = np.array([first[index].step for index in tensors.tolist()], np.int64)
            yield Claim(
                tensors=tensors,
                message="the parameter {fqn} was replaced by a new tensor in step {replaced_step}, and no optimizer "
                "holds the new one: it will not be trained.",
                advice="Copy into the parameter (param.data.copy_), or make the optimizer anew after replacing it.",
                evidence={
                    "replaced_step": steps,
                    "before": [first[index].before for index in tensors.tolist()],
                    "after": [first[index].after for index in tensors.tolist()],
                },
                first_step=steps,
                last_good_step=steps - 1,
            )


def _buffer_claim(
    view: View,
    tensors: IntArray,
    times: IntArray,
    first: dict[int, SlotChanged],
    severity: Severity,
) -> Claim:
    outlived = np.array([first[index].outlived for index in tensors.tolist()], np.int64)
    # One from before the first step says so, and the first step is the first that can be wrong.
    steps = np.maximum(outlived, view.base_step + 1)
    return Claim(
        tensors=tensors,
        message="{fqn} is replaced by new tensors instead of updated in place, and somebody still holds the one that was "
        "replaced in step {replaced_step}: a state dict that was built before, as a rule.",
        advice="Update the buffer in place (add_, copy_), and build the state dict anew for every checkpoint.",
        evidence={
            "replaced_step": steps,
            "times": times,
            "before": [first[index].before for index in tensors.tolist()],
            "after": [first[index].after for index in tensors.tolist()],
        },
        first_step=steps,
        last_good_step=steps - 1,
        severity=severity,
    )


def _optimizers_changed(view: View) -> bool:
    return bool(view.events(OptimizersSeen))


def _is_replacement(event: SlotChanged) -> bool:
    return event.tensor >= 0 and "object" in event.changes


def _pruning_masks(view: View) -> BoolArray:
    """`weight_mask` beside a parameter `weight_orig`: torch.nn.utils.prune registers a new mask at each pruning."""

    def find() -> BoolArray:
        fqns = view.tensors.fqn
        pruned = {fqn.removesuffix("_orig") for fqn in fqns if fqn.endswith("_orig")}
        masks = [fqn.endswith("_mask") and fqn.removesuffix("_mask") in pruned for fqn in fqns]
        return np.array(masks, np.bool_)

    found: BoolArray = view.cached(("pruning-masks", view.num_tensors), find)
    return found


def _is_move(view: View) -> bool:
    """Whether most parameters changed their storage too, as `model.to(...)` and offloading do."""
    params = view.tensors.is_param
    moved = {
        at.event.tensor
        for at in view.events(SlotChanged)
        if {"storage", "device"} & set(at.event.changes)
        and at.event.tensor >= 0
        and params[at.event.tensor]
    }
    return 2 * len(moved) > int(params.sum())
