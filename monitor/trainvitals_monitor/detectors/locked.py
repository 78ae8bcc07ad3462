"""
How a model departs from the lock of its contract: tensors, their kinds, dtypes and shapes, and what moves.

What is compared is each tensor as it was first seen: that it changed later is other detectors' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from trainvitals.contract import FLOAT_BITS, matches
from trainvitals.frame import TensorInfo
from trainvitals.lock import Lock, LockedTensor, expand, fold_names
from trainvitals_monitor.detectors.detector import Claim, IntArray
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

_NAMED = 8
_ADVICE = "Undo the change, or, if it is meant, renew the lock with `trainvitals contract write` and review its diff."


@dataclass
class _Departures:
    """`of`: kind of departure -> (tensor, locked, found); `missing`: folded names; `still`, `moving`: what moves."""

    of: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    num_missing: int = 0
    moving: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    still: IntArray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class _Kind:
    """One kind of departure: what is compared, as a person reads it, and how bad another value is."""

    locked: Callable[[LockedTensor], str]
    found: Callable[[TensorInfo], str]
    severity: Callable[[str, str], Severity]
    message: str


def _narrower(locked: str, found: str) -> Severity:
    less = FLOAT_BITS.get(found, 64) < FLOAT_BITS.get(locked, 64)
    return Severity.CRITICAL if less else Severity.WARNING


def _lost(locked: str, _: str) -> Severity:
    """Critical if it was so and is not: a tensor that is trained or saved no more."""
    return Severity.CRITICAL if locked.startswith("is ") else Severity.WARNING


_KINDS = {
    "dtype": _Kind(
        lambda locked: locked.dtype,
        lambda info: info.dtype,
        _narrower,
        "{fqn} is {found}; the lock of the contract says {locked}.",
    ),
    "shape": _Kind(
        lambda locked: str(list(locked.shape)),
        lambda info: str(list(info.shape)),
        lambda *_: Severity.CRITICAL,
        "{fqn} has the shape {found}; the lock of the contract says {locked}.",
    ),
    "kind": _Kind(
        lambda locked: locked.kind,
        lambda info: info.kind,
        lambda *_: Severity.CRITICAL,
        "{fqn} is a {found}; the lock of the contract says {locked}.",
    ),
    "trainable": _Kind(
        lambda locked: "is trained" if locked.trainable else "asks for no gradient",
        lambda info: "is trained" if info.trainable else "asks for no gradient",
        _lost,
        "{fqn} {found}; the lock of the contract says that it {locked}.",
    ),
    "persistent": _Kind(
        lambda locked: "is in state dicts" if locked.persistent else "is in no state dict",
        lambda info: "is in state dicts" if info.persistent else "is in no state dict",
        _lost,
        "{fqn} {found}; the lock of the contract says that it {locked}.",
    ),
}


def departures(view: View, still_steps: float) -> Iterator[Claim]:
    """The claims about this view; none without a lock, or before the first step is made."""
    lock = view.contract.lock
    if lock is None or view.step <= view.base_step:
        return
    found = view.cached("contract-broken: lock", lambda: _compare(view, lock))
    for name, rows in found.of.items():
        yield from _changed(name, rows)
    if found.missing:
        yield _missing(found)
    yield from _movement(view, lock, found, still_steps)


def _compare(view: View, lock: Lock) -> _Departures:
    named = {fqn: tensor for name, tensor in lock.tensors.items() for fqn in expand(name)}
    made = _Departures()
    moving: list[int] = []
    still: list[int] = []
    for index, info in enumerate(view.tensors.first):
        locked = named.pop(info.fqn, None)
        if locked is None:
            made.of.setdefault("added", []).append((index, "", info.dtype))
            continue
        for name, kind in _KINDS.items():
            pair = kind.locked(locked), kind.found(info)
            if pair[0] != pair[1]:
                made.of.setdefault(name, []).append((index, *pair))
        if locked.moves is not None:
            (moving if locked.moves else still).append(index)
    ignore = view.contract.ignore
    gone = [fqn for fqn, one in named.items() if not one.late and not matches(fqn, ignore)]
    made.missing, made.num_missing = fold_names(gone), len(gone)
    made.moving, made.still = np.array(moving, np.int64), np.array(still, np.int64)
    return made


def _changed(name: str, rows: list[tuple[int, str, str]]) -> Iterator[Claim]:
    """One claim for each severity."""
    kind = _KINDS.get(name)
    by_severity: dict[Severity, list[tuple[int, str, str]]] = {}
    for row in rows:
        severity = kind.severity(row[1], row[2]) if kind else Severity.WARNING
        by_severity.setdefault(severity, []).append(row)
    for severity, same in by_severity.items():
        yield Claim(
            tensors=np.array([row[0] for row in same], np.int64),
            message=kind.message if kind else "{fqn} is not in the lock of the contract.",
            advice=_ADVICE,
            evidence={"locked": [row[1] for row in same], "found": [row[2] for row in same]},
            severity=severity,
            key=f"lock: {name}",
        )


def _missing(found: _Departures) -> Claim:
    more = len(found.missing) - _NAMED
    names = ", ".join(found.missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return Claim(
        message="the model lacks {missing} of the tensors in the lock of the contract: {names}.",
        advice=_ADVICE,
        evidence={"missing": found.num_missing, "names": names},
        severity=Severity.CRITICAL,
        key="lock: missing",
    )


def _movement(view: View, lock: Lock, found: _Departures, still_steps: float) -> Iterator[Claim]:
    moved = view.moved
    if len(moved.first) < view.num_tensors:
        return
    wanted = max(still_steps, 2 * lock.moved_within)
    # Steps that looks have covered: one look at a sparse embedding, over one step, says little.
    late = found.moving[moved.steps[found.moving] >= wanted]
    stuck = late[(moved.first[late] < 0) & ~(view.lr[late] == 0)]
    if len(stuck) and moved.since <= view.base_step + 1:
        yield Claim(
            tensors=stuck,
            message="{fqn} has not moved in {steps} steps; in the run that the lock was made from it did.",
            advice="See whether it still gets a gradient and an optimizer; if it is meant to stay, renew the lock.",
            evidence={"steps": moved.steps[stuck]},
            first_step=view.base_step + 1,
            severity=Severity.WARNING,
            key="lock: stuck",
        )
    step = view.step + (view.step_offset or 0)
    if lock.first_step <= step <= lock.last_step and len(found.still):
        first = moved.first[found.still]
        strayed = found.still[first >= 0]
        if len(strayed):
            yield Claim(
                tensors=strayed,
                message="{fqn} moved in step {step}; in the run that the lock was made from it never did.",
                advice=_ADVICE,
                evidence={"step": moved.first[strayed]},
                first_step=moved.first[strayed],
                severity=Severity.WARNING,
                key="lock: moved",
            )
