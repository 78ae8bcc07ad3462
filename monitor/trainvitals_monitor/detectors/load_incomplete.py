"""
The detector load-incomplete: a load that left tensors as they were, although the checkpoint had them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View


class LoadIncomplete(Detector):
    """
    Detects:
        A load whose missing and unexpected keys are the same tensors by other names: of the same shape, and called alike
        but for a prefix. They were in the checkpoint, and the model did not get them. Other missing keys are info.

    Why it matters:
        With strict=False nothing is said. A part of the model trains on from its initial values beside a part that was
        loaded, and the result is worse than it should be for reasons that nobody sees.

    Known causes:
        strict=False beside names that DDP, torch.compile or another wrapper have prefixed
        (https://github.com/pytorch/pytorch/issues/141256).

    Fix:
        Rename the checkpoint's keys before loading, or unwrap the model; print what load_state_dict returns.

    Misses:
        Loads of which next to nothing fits are resume-not-applied. Renamed layers whose names share no ending, and
        loads that copy tensors by themselves. A load into a model that is attached later is only seen where the agent
        was there before (`trainvitals run`).
    """

    name = "load-incomplete"
    family = "checkpoint"
    severity = Severity.WARNING
    summary = "A load passed over tensors that the checkpoint has under another name."
    reads = ("CheckpointSeen",)
    alert = Alert(summary="A load passed over tensors that the checkpoint has under another name")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for load in view.new_checkpoints():
            if load.op != "load" or load.failed or load.foreign or not load.missing:
                continue
            if not (load.tensors >= 0).any():
                continue  # nothing fits: see resume-not-applied
            misnamed = _misnamed(view, load)
            if misnamed:
                yield _claim(load, misnamed)
            else:
                yield _of_others(load)


def _misnamed(view: View, load: Checkpoint) -> dict[str, str]:
    """Missing key -> the unexpected one that is called alike and has its shape."""
    unexpected = set(load.unexpected)
    endings: dict[str, list[tuple[str, list[int]]]] = {}
    for key, shape in zip(load.keys, load.shapes, strict=True):
        if key in unexpected:
            for ending in _endings(key):
                endings.setdefault(ending, []).append((key, shape))
    shapes = _shapes(view)
    found: dict[str, str] = {}
    for key in load.missing:
        expected = shapes.get(key)
        matches = {
            other
            for ending in _endings(key)
            for other, its in endings.get(ending, ())
            if expected is not None and tuple(its) == expected and _alike(key, other, ending)
        }
        if len(matches) == 1:
            found[key] = matches.pop()
    return found


def _endings(key: str) -> list[str]:
    """The key, and the key without the first of its parts."""
    parts = key.split(".")
    return [key, *(".".join(parts[n:]) for n in range(1, min(4, len(parts))))]


def _alike(one: str, other: str, ending: str) -> bool:
    """One is the end of the other, or they differ in their first part only and the rest is a name of its own."""
    if ending in (one, other):
        return ending.count(".") > 0
    words = [part for part in ending.split(".") if not part.isdigit()]
    first_only = ending == one.partition(".")[2] == other.partition(".")[2]
    return first_only and len(words) >= 2


def _shapes(view: View) -> dict[str, tuple[int, ...]]:
    """By raw name, and by its endings where only one tensor has it: the load may go into a part of the model."""
    found: dict[str, tuple[int, ...]] = {}
    twice: set[str] = set()
    for raw, shape in zip(view.tensors.raw_fqn, view.tensors.shape, strict=True):
        for ending in _endings(raw):
            if found.setdefault(ending, shape) != shape:
                twice.add(ending)
    found.update(zip(view.tensors.raw_fqn, view.tensors.shape, strict=True))
    return {name: shape for name, shape in found.items() if name not in twice}


def _claim(load: Checkpoint, misnamed: dict[str, str]) -> Claim:
    key, other = next(iter(misnamed.items()))
    return Claim(
        message="the load{path} at step {load_step} passed over {misnamed} tensors that the checkpoint has under another "
        "name, such as {key}, which is {other_key} there.",
        advice="Rename the checkpoint's keys to the model's before loading, and look at the missing and unexpected keys.",
        evidence={
            "path": [f" {load.path}" if load.path else ""],
            "load_step": [load.step],
            "misnamed": [len(misnamed)],
            "missing": [len(load.missing)],
            "loaded": [int((load.tensors >= 0).sum())],
            "key": [key],
            "other_key": [other],
        },
        first_step=load.step,
        key=f"misnamed {load.path or load.step}",
    )


def _of_others(load: Checkpoint) -> Claim:
    return Claim(
        message="the load{path} at step {load_step} left {missing} tensors of the model as they were, {key} first.",
        advice="If this is not a new head or an adapter, look at the checkpoint's keys.",
        evidence={
            "path": [f" {load.path}" if load.path else ""],
            "load_step": [load.step],
            "missing": [len(load.missing)],
            "loaded": np.array([int((load.tensors >= 0).sum())]),
            "key": [load.missing[0]],
        },
        first_step=load.step,
        severity=Severity.INFO,
        key=f"missing {load.path or load.step}",
    )
