"""
The detector dtype-changed: a tensor that was cast while training.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals.contract import FLOAT_BITS, MANTISSA_BITS
from trainvitals.frame import SlotChanged
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class DtypeChanged(Detector):
    """
    Detects:
        A parameter or persistent buffer whose floating dtype changed after the first real step. Fewer bits are
        critical where the tensor is trained or is a buffer, a warning where it is frozen; more bits are info.

    Why it matters:
        A cast drops what does not fit, at once and for good, and later updates below one ulp are lost. Optimizer state
        and checkpoints keep the old dtype, so that a resume continues with something else.

    Known causes:
        `module.half()` or `.bfloat16()` for an evaluation or an export of the live model; a wrapper that casts buffers
        with the parameters (https://github.com/NVIDIA/Megatron-LM/issues/1482); names changed by activation
        checkpointing, so that a buffer is no longer exempt (https://github.com/pytorch/torchtitan/issues/3861).

    Fix:
        Cast a copy, use autocast, or exempt the tensor from the cast; then restore it from the last good checkpoint.

    Misses:
        Casts before the first real step (the contract's business), and a cast that is undone before the next look.
        Non-persistent buffers are caches, and are passed over unless their role makes them watched.
    """

    name = "dtype-changed"
    family = "identity"
    severity = Severity.CRITICAL
    summary = "A tensor was cast to another dtype during training."
    reads = ("SlotChanged",)
    alert = Alert(summary="A tensor of the model was cast to another dtype during training")
    resolve_after = None

    def look(self, view: View) -> Iterable[Claim]:
        by_severity: dict[Severity, dict[int, SlotChanged]] = {}
        for at in view.events(SlotChanged):
            if at.event.tensor >= 0 and "dtype" in at.event.changes:
                severity = _severity(view, at.event)
                if severity is not None:
                    by_severity.setdefault(severity, {}).setdefault(at.event.tensor, at.event)
        for severity, events in by_severity.items():
            yield _claim(events, severity)


def _claim(events: dict[int, SlotChanged], severity: Severity) -> Claim:
    ordered = [events[index] for index in sorted(events)]
    steps = np.array([event.step for event in ordered], np.int64)
    return Claim(
        tensors=np.array(sorted(events), np.int64),
        message="{fqn} was cast from {before} to {after} in step {cast_step}"
        + (
            ", which keeps its values but not its past."
            if severity is Severity.INFO
            else ": precision is lost."
        ),
        advice="Cast a copy instead of the live model, or exempt this tensor; restore it from a checkpoint made before.",
        evidence={
            "cast_step": steps,
            "before": [_dtype(event.before) for event in ordered],
            "after": [_dtype(event.after) for event in ordered],
        },
        first_step=steps,
        last_good_step=steps - 1,
        severity=severity,
    )


def _severity(view: View, event: SlotChanged) -> Severity | None:
    table, index = view.tensors, event.tensor
    if not (table.is_param[index] or table.persistent[index]):
        return None
    before, after = _dtype(event.before), _dtype(event.after)
    if before not in FLOAT_BITS:
        return None
    if FLOAT_BITS.get(after, 0) > FLOAT_BITS[before]:
        return Severity.INFO
    frozen = bool(table.is_param[index] and not table.trainable[index])
    same_width = FLOAT_BITS.get(after) == FLOAT_BITS[before] and after in MANTISSA_BITS
    return Severity.WARNING if frozen or same_width else Severity.CRITICAL


def _dtype(words: str) -> str:
    """The dtype in the event's description: "float32[64] on cpu"."""
    return words.partition("[")[0]
