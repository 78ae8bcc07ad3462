"""
What differs-from-reference says, in words and numbers: of the start, of a loss, and of the stages of a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from trainvitals_monitor.detectors.detector import BoolArray, Claim
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Comparison, Differences, View
from trainvitals_monitor.history.starts import Start

APART = 0.03
"""Relative difference beyond which runs are no longer near each other."""
_WHAT = {"gradient": "the gradient's norm", "update": "the update's norm", "value": "the norm"}


def mode_of(before: float, apart: float = APART) -> str:
    """How a step can be compared, by the largest difference before it."""
    if not before >= 0:
        return "from the start"
    return "bit-exact" if before == 0 else "close" if before < apart else "statistical"


def start_claim(
    view: View, comparison: Comparison, start: Start, wrong: BoolArray, severity: Severity
) -> Iterable[Claim]:
    """What the run starts from; none if nothing is wrong."""
    tensors = np.flatnonzero(wrong)
    if not len(tensors):
        return
    yield Claim(
        tensors=tensors,
        message="{fqn} starts from other values than in {reference}: its norm is {ratio:.4g} times as large.",
        advice="Compare how the weights are initialised or loaded.",
        evidence={
            "ratio": start.ratio[tensors],
            "difference": start.difference[tensors],
            "kind": ["start"] * len(tensors),
            "mode": ["from the start"] * len(tensors),
            "reference": [comparison.reference.run] * len(tensors),
        },
        severity=severity,
        first_step=view.step,
        key="start" if severity is not Severity.INFO else "start seed",
    )


def loss_claim(
    view: View, comparison: Comparison, found: Differences, name: str, severity: Severity
) -> Claim:
    """The first loss that differs; info: the batches may be others."""
    difference, value, expected = found.losses[name]
    known = severity is not Severity.INFO
    return Claim(
        message="{name} is {value:.6g} where {reference} has {expected:.6g}; "
        + (
            "until then {mode}."
            if known
            else "the runs start alike, so data or the forward pass are others."
        ),
        advice="Compare the forward pass: modes, dropout, masks, loss; and the order of the data.",
        evidence={
            "name": [name],
            "value": [value],
            "expected": [expected],
            "difference": [difference],
            "kind": ["loss"],
            "mode": [mode_of(found.before)],
            "reference": [comparison.reference.run],
        },
        severity=severity,
        first_step=view.step,
        last_good_step=view.step - 1,
        key="parts" if known else "first",
    )


def stage_claim(
    view: View,
    comparison: Comparison,
    found: Differences,
    stage: str,
    tensors: np.ndarray[tuple[int], np.dtype[np.int64]],
    severity: Severity,
) -> Claim:
    """The tensors that part in this stage of a step."""
    mode = mode_of(found.before)
    return Claim(
        tensors=tensors,
        message="{fqn} parts from {reference}: {what} is {value:.6g}, there {expected:.6g}; until then {mode}.",
        advice=_ADVICE[stage],
        evidence={
            "value": found.values[stage][tensors],
            "expected": found.expected[stage][tensors],
            "difference": found.now[stage][tensors],
            "what": [_WHAT[stage]] * len(tensors),
            "kind": [stage] * len(tensors),
            "mode": [mode] * len(tensors),
            "reference": [comparison.reference.run] * len(tensors),
        },
        severity=severity,
        first_step=view.step,
        last_good_step=view.step - 1,
        key="parts" if severity is not Severity.INFO else "first",
    )


_ADVICE = {
    "gradient": "The loss is the same and gradients are not: compare the backward pass, terms of the loss that are not "
    "logged, accumulation, clipping and reduction.",
    "update": "Gradients are the same and the update is not: compare the optimizer, its groups and its state.",
    "value": "Gradients are the same and the values are not: compare weight decay, and who else writes to the tensor.",
}
