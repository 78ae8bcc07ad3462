"""
Metrics of the tensors that have series of their own: expert biases, counters of experts' tokens, LoRA adapters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.metrics.block import Block, Series
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.seats import MAX_ADAPTERS, MAX_ROUTERS, Seats
from trainvitals_monitor.metrics.spec import MetricSpec

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_TENSOR = ("run", "layer", "tensor")
_SERIES = 4
"""That each watched tensor (or pair of adapters) has, whatever its kind."""

WATCHED_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_expert_bias", "info", (*_TENSOR, "dtype"), "The dtype of an expert bias.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_bias_norm", "gauge", _TENSOR, "Norm of an expert bias.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_bias_spread", "gauge", _TENSOR, "Largest less smallest element of an expert bias.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_bias_drift", "gauge", _TENSOR, "Move, over the last 256 steps or as many as there were, of the middle between the smallest and largest element of an expert bias.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_load_max_ratio", "gauge", _TENSOR, "Load of the busiest expert over that of the mean; 1 is even.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_load_entropy_ratio", "gauge", _TENSOR, "Entropy of the experts' loads over its largest possible value; 1 is even.", MAX_ROUTERS),
    MetricSpec("trainvitals_expert_dead", "gauge", _TENSOR, "Experts that were not chosen once in the last 32 looks.", MAX_ROUTERS),
    MetricSpec("trainvitals_experts", "gauge", _TENSOR, "Experts of a router.", MAX_ROUTERS),
    MetricSpec("trainvitals_lora_norm", "gauge", (*_TENSOR, "matrix"), "Norm of a LoRA matrix, a or b.", 2 * MAX_ADAPTERS),
    MetricSpec("trainvitals_lora_growth_ratio", "gauge", _TENSOR, "Growth of the norm of a LoRA A a step, over the last 256: 0.01 is one percent.", MAX_ADAPTERS),
    MetricSpec("trainvitals_lora_product_ratio", "gauge", _TENSOR, "Norm of a LoRA A (the tensor) times that of its B, which the norm of BA does not exceed, over that of the weight adapted.", MAX_ADAPTERS),
)  # fmt: skip
_SPECS = {spec.name: spec for spec in WATCHED_METRICS}


def watched_blocks(copied: Copied, seats: Seats) -> Iterator[Block]:
    """Of every watched tensor that has a place; a statistic that it has not has no sample."""
    yield from _biases(copied, seats)
    yield from _loads(copied, seats)
    yield from _adapters(copied, seats)


def watched_left_out(copied: Copied, seats: Seats) -> int:
    """Series of those that have none."""
    layout = copied.layout
    pairs = (
        (layout.biases, seats.biases),
        (layout.counters, seats.counters),
        (layout.adapters.a, seats.adapters),
    )
    return _SERIES * sum(len(all_of_them) - len(places) for all_of_them, places in pairs)


def _biases(copied: Copied, seats: Seats) -> Iterator[Block]:
    biases, columns = copied.layout.biases[seats.biases], copied.columns
    yield _dtypes(copied, seats)
    given = {
        "trainvitals_expert_bias_norm": columns["norm"][biases],
        "trainvitals_expert_bias_spread": columns["high"][biases] - columns["low"][biases],
        "trainvitals_expert_bias_drift": copied.trends["bias"][seats.biases],
    }
    for name, values in given.items():
        yield _block(copied, seats, name, biases, values)


def _dtypes(copied: Copied, seats: Seats) -> Block:
    layout, spec = copied.layout, _SPECS["trainvitals_expert_bias"]
    series = seats.series.get(spec.name)
    if series is None:
        labels = (
            (copied.run, layout.layer_of[i], layout.fqn[i], layout.dtype[i])
            for i in layout.biases[seats.biases]
        )
        series = seats.series[spec.name] = Series(spec, labels)
    return series.block(np.ones(len(seats.biases)))


def _loads(copied: Copied, seats: Seats) -> Iterator[Block]:
    counters = copied.layout.counters[seats.counters]
    columns = {name: values[counters] for name, values in copied.columns.items()}
    experts = columns["experts"]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.log(columns["effective_experts"]) / np.log(experts)
    given = {
        "trainvitals_expert_load_max_ratio": columns["busiest"],
        "trainvitals_expert_load_entropy_ratio": entropy,
        "trainvitals_expert_dead": columns["unused"],
        "trainvitals_experts": experts,
    }
    for name, values in given.items():
        yield _block(copied, seats, name, counters, values)


def _adapters(copied: Copied, seats: Seats) -> Iterator[Block]:
    norm, pairs, places = copied.columns["norm"], copied.layout.adapters, seats.adapters
    matrix_a, matrix_b, adapted = pairs.a[places], pairs.b[places], pairs.base[places]
    a, b = norm[matrix_a], norm[matrix_b]
    base = np.where(adapted >= 0, norm[adapted], np.nan) if len(norm) else a
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        product = a * b / base
    growth = np.expm1(copied.trends["lora_a"][seats.adapters])
    yield _block(copied, seats, "trainvitals_lora_norm", matrix_a, a, "a")
    yield _block(copied, seats, "trainvitals_lora_norm", matrix_b, b, "b")
    yield _block(copied, seats, "trainvitals_lora_growth_ratio", matrix_a, growth)
    yield _block(copied, seats, "trainvitals_lora_product_ratio", matrix_a, product)


def _block(
    copied: Copied, seats: Seats, name: str, tensors: IntArray, values: FloatArray, *more: str
) -> Block:
    """`more`: labels beyond those of a tensor, the same for all."""
    layout, known = copied.layout, "/".join((name, *more))
    series = seats.series.get(known)
    if series is None:
        labels = ((copied.run, layout.layer_of[i], layout.fqn[i], *more) for i in tensors)
        series = seats.series[known] = Series(_SPECS[name], labels)
    return series.block(np.where(np.isfinite(values), values, np.nan))
