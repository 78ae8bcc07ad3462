"""
The detector checkpoint-incomplete: a checkpoint to resume from that lacks a part of what training moves.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from trainvitals.fqn import canonical_fqn
from trainvitals_monitor.detectors.detector import Alert, BoolArray, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Checkpoint, View

_SHARD = re.compile(r"\d+[-_]?of[-_]?\d+")


class CheckpointIncomplete(Detector):
    """
    Detects:
        A save of the model together with its optimizer that lacks tensors which training moves and a state_dict has:
        buffers of modules whose parameters are saved, or parameters of the same optimizer as the saved ones.

    Why it matters:
        A resume from it starts these anew: running statistics at 0 and 1, a layer at random.

    Known causes:
        Only `parameters()` are saved, and buffers are not among them (https://github.com/torch/nn/issues/1165); a filter
        on names that matches more than was meant.

    Fix:
        Save `model.state_dict()`; write what is left out on purpose into the contract's `ignore`.

    Misses:
        Saves without optimizer state (exports, averages and adapters are partial by design), sharded files, and runs of
        several ranks. What was not seen to move. What lacks in a module of which as many elements are saved under names
        that the model has not: a hook of the module splits or joins its tensors (torchtitan's QKV).
    """

    name = "checkpoint-incomplete"
    family = "checkpoint"
    severity = Severity.WARNING
    summary = "A checkpoint lacks tensors that training moves."
    reads = ("CheckpointSeen", "OptimizersSeen", "changed")
    alert = Alert(summary="A checkpoint was written without a part of the trained state")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        if view.world_size > 1:
            return
        new = [one for one in view.new_checkpoints() if _is_sound(one)]
        for step in sorted({one.step for one in new}):
            saves = [one for one in view.checkpoints("save") if one.step == step and _is_sound(one)]
            if any(one.has_optimizer for one in saves) and not any(map(_is_shard, saves)):
                yield from _lacking(view, saves)


def _is_sound(one: Checkpoint) -> bool:
    return one.op == "save" and not (one.failed or one.foreign)


def _is_shard(save: Checkpoint) -> bool:
    return bool(_SHARD.search(save.path))


def _lacking(view: View, saves: list[Checkpoint]) -> Iterable[Claim]:
    saved = np.zeros(view.num_tensors, np.bool_)
    for save in saves:
        saved[save.tensors[save.tensors >= 0]] = True
    if saved.sum() < 2:
        return
    table = view.tensors
    with np.errstate(invalid="ignore"):
        moved = view.latest("changed") > 0
    expected = moved & table.persistent & ~_tied(view) & ~_under_other_names(view, saves)
    lacking = (
        expected
        & ~saved
        & np.where(table.is_param, _beside_saved_ones(view, saved), _of_saved_modules(view, saved))
    )
    lacking &= ~_in_other_pieces(view, saves, lacking)
    if lacking.any():
        yield _claim(view, saves, lacking, saved)


def _of_saved_modules(view: View, saved: BoolArray) -> BoolArray:
    """Tensors of modules of which something is saved."""
    modules = [fqn.rpartition(".")[0] for fqn in view.tensors.fqn]
    of_saved = {modules[index] for index in np.flatnonzero(saved & view.tensors.is_param)}
    return np.array([module in of_saved for module in modules], np.bool_)


def _beside_saved_ones(view: View, saved: BoolArray) -> BoolArray:
    """Tensors of optimizers most of whose tensors are saved."""
    beside = np.zeros(view.num_tensors, np.bool_)
    seen = view.optimizers
    if seen is None:
        return beside
    for optimizer in set(seen.group_optimizer):
        groups = zip(seen.group_optimizer, seen.group_tensors, strict=True)
        own = [index for owner, group in groups if owner == optimizer for index in group]
        held = np.array([index for index in own if 0 <= index < len(saved)], np.int64)
        if len(held) and 2 * int(saved[held].sum()) > len(held):
            beside[held] = True
    return beside


def _tied(view: View) -> BoolArray:
    """Both ends of a tie: one of its names is enough."""
    tied: BoolArray = view.tied_to >= 0
    tied = tied.copy()
    tied[view.tied_to[view.tied_to >= 0]] = True
    return tied


def _under_other_names(view: View, saves: list[Checkpoint]) -> BoolArray:
    """Tensors that an entry nobody could place may be: it has their shape."""
    unknown = {
        tuple(save.shapes[entry])
        for save in saves
        for entry in np.flatnonzero(save.tensors < 0).tolist()
        if entry < len(save.shapes)
    }
    return np.array([shape in unknown for shape in view.tensors.shape], np.bool_)


def _in_other_pieces(view: View, saves: list[Checkpoint], lacking: BoolArray) -> BoolArray:
    """Lacking tensors whose module has saved as many elements as it lacks, in entries that nobody could place."""
    table = view.tensors
    unknown: Counter[str] = Counter()
    for save in saves:
        prefix = _prefix(view, save)
        for entry in np.flatnonzero(save.tensors < 0).tolist():
            if entry < len(save.shapes):
                for module in _modules(canonical_fqn(save.keys[entry]).removeprefix(prefix)):
                    unknown[module] += math.prod(save.shapes[entry])
    lacked: Counter[str] = Counter()
    for index in np.flatnonzero(lacking).tolist():
        for module in _modules(table.fqn[index]):
            lacked[module] += math.prod(table.shape[index])
    found = np.zeros(view.num_tensors, np.bool_)
    for index in np.flatnonzero(lacking).tolist():
        nearest = next((each for each in _modules(table.fqn[index]) if unknown[each]), None)
        found[index] = nearest is not None and unknown[nearest] >= lacked[nearest]
    return found


def _prefix(view: View, save: Checkpoint) -> str:
    """What stands before the model's names in this save's keys, such as "model."."""
    for entry in np.flatnonzero(save.tensors >= 0).tolist():
        key, fqn = canonical_fqn(save.keys[entry]), view.tensors.fqn[save.tensors[entry]]
        if key.endswith(fqn):
            return key.removesuffix(fqn)
    return ""


def _modules(fqn: str) -> Iterator[str]:
    """The modules around a tensor, the nearest first; not the model itself."""
    while fqn := fqn.rpartition(".")[0]:
        yield fqn


def _claim(view: View, saves: list[Checkpoint], lacking: BoolArray, saved: BoolArray) -> Claim:
    tensors = np.flatnonzero(lacking)
    count = len(tensors)
    path = next((save.path for save in saves if save.path), "")
    return Claim(
        tensors=tensors,
        message="the checkpoint{path} of step {saved_step} has the optimizer's state and {saved} tensors of the model, and "
        "lacks {lacking} that training moves, {fqn} first.",
        advice="Save the whole state_dict of the model: a resume from this checkpoint starts these tensors anew.",
        evidence={
            "path": [f" {path}" if path else ""] * count,
            "saved_step": np.full(count, saves[-1].step),
            "saved": np.full(count, int(saved.sum())),
            "lacking": np.full(count, count),
            "norm": np.nan_to_num(view.latest("norm")[tensors]),
        },
        first_step=saves[-1].step,
    )
