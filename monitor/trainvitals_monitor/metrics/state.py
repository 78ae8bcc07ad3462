"""
Metrics of a model's state: by role of tensors, by layer, and of the tensors that stand out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainvitals.roles import Role
from trainvitals_monitor.metrics.block import Block, Sample, Series
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.layout import MAX_LAYERS
from trainvitals_monitor.metrics.spec import MetricSpec

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

OFFENDERS = 8
"""Tensors of a kind that are named."""
_PARTS = 64
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
    layout, sums = copied.layout, _by_cell(copied)
    for kind, group, of_cell in (
        ("role", layout.roles, layout.cells.role),
        ("layer", layout.layers, layout.cells.layer),
    ):
        size = len(group.names)
        by_group = (_joined(*one, of_cell, size) for one in sums)
        for stat, values in _stats(*by_group).items():
            name = f"trainvitals_{kind}_{stat}"
            series = layout.series.get(name)
            if series is None:
                labels = ((copied.run, one) for one in group.names)
                series = layout.series[name] = Series(_SPECS[name], labels)
            yield series.block(values)


def _by_cell(copied: Copied) -> list[tuple[FloatArray, BoolArray]]:
    """The sums that statistics are made of, in the order of `_stats`, and where they are known."""
    columns = copied.columns
    norm, update = _squares(columns["norm"]), _squares(_updates(columns))
    both = np.isfinite(update) & np.isfinite(norm)
    rows = (
        norm,
        np.where(both, update, np.nan),
        np.where(both, norm, np.nan),
        columns["changed"],
        columns["looked"],
        _squares(columns["grad_norm"]),
        columns["nonfinite"],
    )
    return [copied.layout.cells.sums(row) for row in rows]


def _joined(sums: FloatArray, known: BoolArray, group: IntArray, size: int) -> FloatArray:
    """Sums of groups, of those of cells; NaN where nothing is known, which is no zero."""
    joined, count = (np.bincount(group + 1, one, size + 1)[1:] for one in (sums, known))
    return np.where(count > 0, joined, np.nan)


def _stats(
    norm: FloatArray,
    update: FloatArray,
    updated: FloatArray,
    changed: FloatArray,
    looked: FloatArray,
    gradient: FloatArray,
    nonfinite: FloatArray,
) -> dict[str, FloatArray]:
    """Of sums: `norm`, `update` and `gradient` of squares; `updated`: of the norms whose updates are known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "norm": np.sqrt(norm),
            "update_ratio": _finite(np.sqrt(update / updated)),
            "changed_ratio": _finite(changed / looked),
            "gradient_norm": np.sqrt(gradient),
            "nonfinite_elements": nonfinite,
        }


def _squares(values: FloatArray) -> FloatArray:
    """What is not finite is not known; a square may be infinite, which is told."""
    with np.errstate(over="ignore"):
        squares: FloatArray = _finite(values) ** 2
    return squares


def _updates(columns: dict[str, FloatArray]) -> FloatArray:
    """Update norms a step: two looks may be several steps apart."""
    updates: FloatArray = columns["update_norm"] / np.maximum(columns["since"], 1.0)
    return updates


def _finite(values: FloatArray) -> FloatArray:
    finite: FloatArray = np.where(np.isfinite(values), values, np.nan)
    return finite


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
        for tensor in largest(values):
            name = f"trainvitals_offender_{stat}"
            yield name, (copied.run, copied.layout.fqn[tensor]), float(values[tensor])


def largest(values: FloatArray) -> list[int]:
    """The tensors with the largest values that are known, OFFENDERS at most."""
    scored = np.where(np.isnan(values), -np.inf, values)
    whole = len(scored) - len(scored) % _PARTS
    if whole > OFFENDERS * _PARTS:
        # Of so many parts the largest each: as many values as are asked for are at least as large as those tell.
        least = np.sort(scored[:whole].reshape(_PARTS, -1).max(axis=1))[-OFFENDERS]
    else:
        least = -np.inf
    near = np.flatnonzero((scored >= least) & (scored > -np.inf))
    order: list[int] = near[np.argsort(-scored[near], kind="stable")][:OFFENDERS].tolist()
    return order
