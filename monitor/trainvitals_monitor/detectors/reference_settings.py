"""
What is set up differently from a reference: tensors, types, what is trained by which optimizer, rates and modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from trainvitals_monitor.detectors.detector import Claim
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import Comparison, Differences, View
from trainvitals_monitor.history.reference import Settings, saves_of, settings_of

_EVERY = 64
"""Under a budget it takes so many steps until every change of a slot has been seen."""
_SHOWN = 8
_FIRST_STEPS = 8
_NEAR = 0.01


def settings_that_differ(view: View, comparison: Comparison, found: Differences) -> Iterable[Claim]:
    """Claims about the set-up at this step."""
    yield from _rates(view, comparison, found)
    if view.step != view.base_step + 1 and view.step % _EVERY:
        return
    there = comparison.reference.settings(view.step)
    if there is not None:
        here = settings_of(view)
        yield from _tensors(view, comparison, here, there)
        yield from _run(view, comparison, here, there)


def saves_that_differ(view: View, comparison: Comparison) -> Iterable[Claim]:
    """Claims about the checkpoints that are new at this look, and that the reference saved at the same step."""
    for place, here in saves_of(view).items():
        there = comparison.reference.saved(place)
        if there is None:
            continue
        for kind, keys in (
            ("missing from it", there.dtypes.keys() - here.dtypes.keys()),
            ("only in it", here.dtypes.keys() - there.dtypes.keys()),
            ("zero only in it", (here.zero - there.zero) & there.dtypes.keys()),
        ):
            if keys:
                yield Claim(
                    message="the checkpoint of step {step} is not as that of {reference}: {count_keys} keys are {kind}, "
                    "{value}.",
                    advice="Compare what is handed to the saver.",
                    evidence={
                        "value": [_listed(sorted(keys))],
                        "count_keys": [len(keys)],
                        **_told(comparison, kind, 1),
                    },
                    first_step=place[0],
                    key=f"save {kind}",
                )


def _rates(view: View, comparison: Comparison, found: Differences) -> Iterable[Claim]:
    """Learning rates; where runs are far apart they may follow from the loss, and tell nothing."""
    if view.step == view.base_step:
        return
    here, there = view.lr, comparison.reference.lr(view.step, found.index)
    with np.errstate(invalid="ignore"):
        tensors = np.flatnonzero(np.abs(here - there) > 1e-6 * np.maximum(here, there))
    near = found.before < _NEAR or comparison.num_steps <= _FIRST_STEPS
    if len(tensors):
        yield Claim(
            tensors=tensors,
            message="the learning rate of {fqn} is {value:.6g} where {reference} has {expected:.6g}.",
            advice="Compare the parameter groups and the schedule.",
            evidence={
                "value": here[tensors],
                "expected": there[tensors],
                **_told(comparison, "learning rate", len(tensors)),
            },
            severity=Severity.WARNING if near and comparison.whole else Severity.INFO,
            first_step=view.step,
            last_good_step=view.step - 1,
            key="lr",
        )


def _tensors(
    view: View, comparison: Comparison, here: Settings, there: Settings
) -> Iterable[Claim]:
    """What is known of each tensor, and is other than there."""
    found: dict[str, list[tuple[int, Any, Any]]] = {}
    for index, fqn in enumerate(view.tensors.fqn):
        if fqn not in there.dtypes:
            found.setdefault("presence", []).append((index, "there", "missing"))
            continue
        for kind, one, other in (
            ("dtype", here.dtypes[fqn], there.dtypes[fqn]),
            ("shape", here.shapes[fqn], there.shapes[fqn]),
            ("requires_grad", fqn in here.trainable, fqn in there.trainable),
            ("mode", _mode(here, fqn), _mode(there, fqn)),
        ):
            if one != other:
                found.setdefault(kind, []).append((index, one, other))
        if here.optimizers and there.optimizers and (fqn in here.held) != (fqn in there.held):
            one, other = ("held" if fqn in s.held else "not held" for s in (here, there))
            found.setdefault("optimizer", []).append((index, one, other))
    for kind, rows in found.items():
        tensors, ones, others = zip(*rows, strict=True)
        yield Claim(
            tensors=np.array(tensors, np.int64),
            message="{kind} of {fqn} is {value} where {reference} has {expected}.",
            advice="Compare how the model is made, cast and given to the optimizer.",
            evidence={
                "value": [str(one) for one in ones],
                "expected": [str(other) for other in others],
                **_told(comparison, kind, len(rows)),
            },
            first_step=view.step,
            key=kind,
        )


def _run(view: View, comparison: Comparison, here: Settings, there: Settings) -> Iterable[Claim]:
    """What is known of the run as a whole."""
    missing = sorted(there.dtypes.keys() - here.dtypes.keys())
    kinds: list[tuple[str, Sequence[Any], Sequence[Any]]] = []
    if missing:
        kinds.append(("tensors missing here", missing, []))
    if here.optimizers and there.optimizers and here.optimizers != there.optimizers:
        kinds.append(("optimizers", here.optimizers, there.optimizers))
    rates = (here.dropout_rates, there.dropout_rates)
    if None not in rates and rates[0] != rates[1]:
        kinds.append(("dropout rates", rates[0] or ["none"], rates[1] or ["none"]))
    for kind, one, other in kinds:
        yield Claim(
            message="{kind}: {value} where {reference} has {expected}.",
            advice="Compare how the model and the optimizer are made.",
            evidence={
                "value": [_listed(one)],
                "expected": [_listed(other) if other else "them"],
                **_told(comparison, kind, 1),
            },
            first_step=view.step,
            key=kind,
        )


def _mode(settings: Settings, fqn: str) -> str:
    return "eval" if fqn in settings.evaluating else "train"


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _told(comparison: Comparison, kind: str, count: int) -> dict[str, list[str]]:
    return {
        "kind": [kind] * count,
        "mode": ["settings"] * count,
        "reference": [comparison.reference.run] * count,
    }
