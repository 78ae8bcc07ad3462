"""
Metrics of a model's state: by role of tensors, by layer, and of the tensors that stand out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainvitals.roles import Role
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.layout import MAX_LAYERS, Group
from trainvitals_monitor.metrics.spec import Block, MetricSpec, Sample

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OFFENDERS = 8
"""Tensors of a kind that are named."""
_STATS = {
    "norm": "Norm of {what}, as last looked at; what is not finite left out.",
    "update_ratio": "Norm of the update of a step over that of the values, {what}.",
    "changed_ratio": "Share of elements whose bits changed between two looks, {what}.",
    "gradient_norm": "Norm of the gradient before the step, {what}.",
    "nonfinite_elements": "Elements that are NaN or infinite, {what}.",
}


def _specs(group: str, what: str, bound: int) -> Iterator[MetricSpec]:
    for stat, text in _STATS.items():
        name = f"trainvitals_{group}_{stat}"
        yield MetricSpec(name, "gauge", ("run", group), text.format(what=what), bound)


STATE_METRICS: tuple[MetricSpec, ...] = (
    *_specs("role", "all tensors of a role", len(Role)),
    *_specs("layer", "all parameters of a layer", MAX_LAYERS),
    MetricSpec("trainvitals_offender_update_ratio", "gauge", ("run", "tensor"), "The largest update ratios, of parameters.", OFFENDERS),
    MetricSpec("trainvitals_offender_gradient_norm", "gauge", ("run", "tensor"), "The largest gradient norms.", OFFENDERS),
    MetricSpec("trainvitals_offender_nonfinite_elements", "gauge", ("run", "tensor"), "The most elements that are NaN or infinite; none are named where all are finite.", OFFENDERS),
)  # fmt: skip
_SPECS = {spec.name: spec for spec in STATE_METRICS}


def state_blocks(copied: Copied) -> Iterator[Block]:
    """Of every role, then of every layer; a statistic that was looked at nowhere in a group has no sample."""
    for kind, group in (("role", copied.layout.roles), ("layer", copied.layout.layers)):
        for stat, values in _by_group(copied, group).items():
            name = f"trainvitals_{kind}_{stat}"
            memo = copied.layout.labels.setdefault(name, [])
            if not memo:
                memo += [_SPECS[name].labelled(copied.run, one) for one in group.names]
            yield Block(name, memo, values.tolist())


def _by_group(copied: Copied, group: Group) -> dict[str, FloatArray]:
    columns = copied.columns
    sizes = len(group.names)
    norm, update = _squares(columns["norm"]), _squares(_updates(columns))
    both = np.where(np.isfinite(update) & np.isfinite(norm), 1.0, np.nan)
    looked = columns["looked"]
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = _sum(update * both, group, sizes) / _sum(norm * both, group, sizes)
        return {
            "norm": np.sqrt(_sum(norm, group, sizes)),
            "update_ratio": _finite(np.sqrt(moved)),
            "changed_ratio": _finite(
                _sum(columns["changed"], group, sizes) / _sum(looked, group, sizes)
            ),
            "gradient_norm": np.sqrt(_sum(_squares(columns["grad_norm"]), group, sizes)),
            "nonfinite_elements": _sum(columns["nonfinite"], group, sizes),
        }


def _squares(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        squares: FloatArray = np.where(np.isfinite(values), values, np.nan) ** 2
    return squares


def _updates(columns: dict[str, FloatArray]) -> FloatArray:
    """Update norms a step: two looks may be several steps apart."""
    updates: FloatArray = columns["update_norm"] / np.maximum(columns["since"], 1.0)
    return updates


def _finite(values: FloatArray) -> FloatArray:
    finite: FloatArray = np.where(np.isfinite(values), values, np.nan)
    return finite


def _sum(values: FloatArray, group: Group, size: int) -> FloatArray:
    """The sum of what is known, by group; NaN where nothing is."""
    known = (group.number >= 0) & ~np.isnan(values)
    numbers = group.number[known]
    sums: FloatArray = np.bincount(numbers, values[known], size).astype(np.float64)
    sums[np.bincount(numbers, minlength=size) == 0] = np.nan  # nothing is known, which is no zero
    return sums


def offender_samples(copied: Copied) -> Iterator[Sample]:
    """The largest of a kind, by tensor."""
    columns = copied.columns
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _finite(_updates(columns) / columns["norm"])
    ratio[copied.layout.layers.number < 0] = np.nan
    nonfinite = np.where(columns["nonfinite"] > 0, columns["nonfinite"], np.nan)
    rated = {
        "update_ratio": ratio,
        "gradient_norm": _finite(columns["grad_norm"]),
        "nonfinite_elements": nonfinite,
    }
    for stat, values in rated.items():
        for tensor in _largest(values):
            name = f"trainvitals_offender_{stat}"
            yield name, (copied.run, copied.layout.fqn[tensor]), float(values[tensor])


def _largest(values: FloatArray) -> list[int]:
    known = np.flatnonzero(~np.isnan(values))
    if len(known) > OFFENDERS:
        known = known[np.argpartition(-values[known], OFFENDERS)[:OFFENDERS]]
    order: list[int] = known[np.argsort(-values[known], kind="stable")].tolist()
    return order
