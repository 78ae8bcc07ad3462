"""
The detector contract-broken: a tensor that is not what the contract, built-in, declared or locked, asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from trainvitals.contract import FLOAT_BITS, matches, required_dtype
from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.locked import departures
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


class _Breach(NamedTuple):
    tensor: int
    dtype: str
    required: str
    declared: bool


class ContractBroken(Detector):
    """
    Detects:
        From the first step on, a tensor of another dtype than the contract asks for. Built in: expert biases, expert
        token counters, rotary inverse frequencies and running statistics are float32 or wider. Declared:
        `Contract(dtypes={pattern: dtype})`, and pairs of names that must share one tensor, `Contract(tied=...)`.
        Critical for what was declared and for expert biases that are buffers. With a lock (docs/contract.md), any
        departure from it: a tensor that is missing, of another kind, shape or narrower dtype, trained or saved no more
        (critical); one that is new, that moves though it never did, or does not though it did (warning).

    Why it matters:
        These tensors change in steps far below one ulp of bfloat16. A router's bias of 0.6 cannot move by 0.001 in
        bfloat16 (one ulp is 0.0039): 319 of 320 updates are lost, and experts are never balanced. Token counts above
        256 are rounded, so that the balancing pushes the wrong way.

    Known causes:
        `module.bfloat16()` casts buffers too (https://github.com/NVIDIA/Megatron-LM/issues/1482, fixed by
        `_maintain_float32_expert_bias`); its sibling counter (https://github.com/NVIDIA/Megatron-LM/issues/7081);
        `.half()` on a rotary embedding; weights untied by `load_state_dict(assign=True)`
        (https://github.com/pytorch/pytorch/issues/188346); a buffer's exemption lost to a changed name
        (https://github.com/pytorch/torchtitan/issues/3861).

    Fix:
        Keep the tensor in float32: override `_apply` of its module, cast it back after the wrapper's cast, or use
        autocast instead of a cast of the whole model. Tie weights again after a load that assigns.

    Misses:
        With a lock: elements outside the cores of a large tensor; what moved only later than the lock's run went.
        Roles are read from names: a bias under another name needs a declaration. A bfloat16 tensor that nobody updates
        any more is reported although it does no further harm; declare it under `ignore`. Ties are known by object: two
        parameters that only share memory are not tied.
    """

    name = "contract-broken"
    family = "identity"
    severity = Severity.CRITICAL
    summary = "A tensor is not what the contract says: its dtype, its tie, or anything in the lock."
    reads = ("TensorInfo", "changed")
    alert = Alert(summary="A tensor of the model breaks the contract")

    thresholds = (
        Threshold(
            name="still_steps",
            default=16,
            unit="steps",
            reason="what moves by its lock has had its time: a warm-up from zero, or a scaler that skips, takes some",
        ),
    )

    def look(self, view: View) -> Iterable[Claim]:
        yield from _untied(view)
        yield from departures(view, self.value("still_steps"))
        breaches = view.cached("contract-broken", lambda: _breaches(view))
        for severity, found in breaches.items():
            yield Claim(
                tensors=np.array([breach.tensor for breach in found], np.int64),
                message="{fqn} is {dtype} where {required} is {asked_by}: "
                + (
                    "small updates of it are lost."
                    if severity is Severity.CRITICAL
                    else "it is kept too coarsely."
                ),
                advice="Keep this tensor in {required}: exempt it from the cast of the model, or cast it back after it.",
                evidence={
                    "dtype": [breach.dtype for breach in found],
                    "required": [breach.required for breach in found],
                    "asked_by": ["declared" if breach.declared else "needed" for breach in found],
                },
                severity=severity,
            )


def _untied(view: View) -> Iterable[Claim]:
    """Pairs that were declared tied, are both there, and are two objects."""
    table, tied = view.tensors, view.tied_to
    for names in view.contract.tied:
        first, second = (table.index_of(name) for name in names)
        if first is None or second is None:
            continue
        roots = [tied[index] if tied[index] >= 0 else index for index in (first, second)]
        if roots[0] != roots[1]:
            yield Claim(
                tensors=np.array([second], np.int64),
                message="{fqn} was declared tied to {other}, and is a tensor of its own: the two drift apart.",
                advice="Tie the weights again after loading (tie_weights, or assign the one parameter to both places).",
                evidence={"other": [table.fqn[first]]},
                key="tied",
            )


def _breaches(view: View) -> dict[Severity, list[_Breach]]:
    by_severity: dict[Severity, list[_Breach]] = {}
    declared = list(view.contract.dtypes)
    table = view.tensors
    for index, (fqn, dtype) in enumerate(zip(table.fqn, table.dtype, strict=True)):
        if not declared and FLOAT_BITS.get(dtype, 64) >= 32:
            continue
        required = required_dtype(fqn, dtype, view.contract) if dtype else None
        if required is not None:
            breach = _Breach(index, dtype, required, matches(fqn, declared))
            by_severity.setdefault(_severity(view, breach), []).append(breach)
    return by_severity


def _severity(view: View, breach: _Breach) -> Severity:
    table = view.tensors
    # An expert bias that is a parameter is loaded and kept (transformers); as a buffer it is updated at every step.
    updated = table.role[breach.tensor] is Role.EXPERT_BIAS and not table.is_param[breach.tensor]
    return Severity.CRITICAL if breach.declared or updated else Severity.WARNING
