"""
The detector checkpoint-keys-changed: a save that spells the names of the same tensors otherwise than the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View

_NUMBER = re.compile(r"\d+")


class _Named(NamedTuple):
    """A save by the tensors in it: FQN -> raw key, and FQN -> the raw name that the model itself had."""

    kind: str
    keys: Mapping[str, str]
    live: Mapping[str, str]


class CheckpointKeysChanged(Detector):
    """
    Detects:
        A save of the same tensors as an earlier one of its kind (same function, same file name but for numbers), in
        this attempt or the one before, whose raw keys differ. Critical if the model's own names are the same as then;
        a warning if the model is wrapped differently now.

    Why it matters:
        A checkpoint is found by its keys. The next resume fails with missing keys, or, where that is allowed, silently
        restores nothing.

    Known causes:
        `set_model_state_dict` renames the keys of the dict that it is given, which was the trainer's cached one
        (https://github.com/pytorch/torchtitan/issues/961, fixed in https://github.com/pytorch/torchtitan/pull/971);
        `torch.compile` or DDP added between two jobs, so that names gain `_orig_mod.` or `module.`.

    Fix:
        Build the state dict anew after every load; use `module.compile()`, which keeps names; rename the keys of the
        checkpoint back (strip `_orig_mod.`) before resuming from it.

    Misses:
        Saves under other file names (a final export with plain names is legal), and saves whose set of tensors differs
        too. A trainer whose keys always have a prefix is consistent, and no finding.
    """

    name = "checkpoint-keys-changed"
    family = "checkpoint"
    severity = Severity.CRITICAL
    summary = "A checkpoint's keys differ from those of the checkpoint before."
    reads = ("CheckpointSeen",)
    alert = Alert(summary="A checkpoint was written with other keys than the one before")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        for save in view.new_checkpoints():
            if _is_model_save(save):
                named = _named(save, view.tensors.fqn)
                before = _before(view, save, named)
                if before is not None and before.keys != named.keys:
                    yield _claim(view, save, named, before)


def _is_model_save(save: Checkpoint) -> bool:
    return save.op == "save" and save.is_model and not (save.failed or save.foreign)


def _named(save: Checkpoint, fqns: list[str]) -> _Named:
    name = re.split(r"[/\\]", save.path.rstrip("/\\"))[-1]
    keys, live = {}, {}
    for entry, index in enumerate(save.tensors.tolist()):
        if index >= 0:
            keys[fqns[index]] = save.keys[entry]
            live[fqns[index]] = save.live_keys[entry] if entry < len(save.live_keys) else ""
    return _Named(f"{save.api} {_NUMBER.sub('*', name)}", keys, live)


def _before(view: View, save: Checkpoint, named: _Named) -> _Named | None:
    """The last save of the same kind and the same tensors before this one."""
    earlier = [
        _named(one, view.tensors.fqn)
        for one in reversed(_until(view.checkpoints("save"), save))
        if _is_model_save(one)
    ]
    return next((one for one in [*earlier, *_left_before(view)] if _same_kind(one, named)), None)


def _until(saves: list[Checkpoint], save: Checkpoint) -> list[Checkpoint]:
    position = next((k for k, one in enumerate(saves) if one is save), len(saves))
    return saves[:position]


def _left_before(view: View) -> Iterable[_Named]:
    """The saves that the attempt before this one left, the last first."""
    previous = view.previous
    if previous is None:
        return
    fqns = [""] * len(previous.tensors)
    for fqn, index in previous.tensors.items():
        fqns[index] = fqn
    for save in reversed(previous.last_checkpoints):
        if _is_model_save(save):
            yield _named(save, fqns)


def _same_kind(one: _Named, other: _Named) -> bool:
    return one.kind == other.kind and one.keys.keys() == other.keys.keys()


def _claim(view: View, save: Checkpoint, now: _Named, before: _Named) -> Claim:
    changed = [fqn for fqn, key in now.keys.items() if before.keys[fqn] != key]
    indices = [view.tensors.index_of(fqn) for fqn in changed]
    wrapped_alike = all(before.live.get(fqn) == now.live.get(fqn) for fqn in changed)
    return Claim(
        tensors=np.array([index for index in indices if index is not None], np.int64),
        message="the checkpoint{path} of step {saved_step} names {changed} of its {entries} tensors otherwise than the one "
        "before, such as {key} instead of {key_before}: a resume from it will not find them.",
        advice="Build the state dict anew after loading, and strip the added prefix from this checkpoint's keys.",
        evidence={
            "path": [f" {save.path}" if save.path else ""] * len(changed),
            "saved_step": np.full(len(changed), save.step),
            "changed": np.full(len(changed), len(changed)),
            "entries": np.full(len(changed), len(now.keys)),
            "key": [now.keys[fqn] for fqn in changed],
            "key_before": [before.keys[fqn] for fqn in changed],
        },
        first_step=save.step,
        severity=Severity.CRITICAL if wrapped_alike else Severity.WARNING,
    )
