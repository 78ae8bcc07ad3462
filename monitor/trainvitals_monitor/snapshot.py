"""
From the engine's words to the API's: a run in short, and numbers as JSON can have them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from trainvitals_monitor.engine import Engine
from trainvitals_monitor.first_cause import standing
from trainvitals_monitor.hearing import Hearing
from trainvitals_monitor.models import FindingCounts, Number, RunOut


def run_out(engine: Engine, page: str, hearing: Hearing) -> RunOut:
    """The run in short; the caller holds its lock."""
    said = engine.summary()
    counts = Counter(finding.severity.value for finding in standing(engine.findings))
    return RunOut(
        run=engine.run,
        attempt=said.get("attempt", ""),
        attempts=said.get("attempts", 0),
        phase=said.get("phase", "starting"),
        step=said.get("step", -1),
        world_size=said.get("world_size", 0),
        ranks_reporting=hearing.num_reporting(engine.history.current),
        tensors=said.get("tensors", 0),
        coverage=coverage_ratio(engine),
        loss=number(said.get("loss")),
        lr=number(said.get("lr")),
        step_seconds=number(said.get("step_seconds")),
        last_seen=said.get("last_seen", 0.0),
        findings=FindingCounts(**counts),
        page=page,
    )


def coverage_ratio(engine: Engine) -> float:
    """Share of the latest attempt's tensors whose values were looked at, 0 to 1."""
    return float(engine.coverage()["seen"].get("values", 0.0))


def number(value: float | None) -> Number | None:
    """The number as JSON can have it."""
    if value is None or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def numbers(values: Any) -> list[Number]:
    """A column as JSON can have it."""
    plain: list[Number] = values.tolist()
    for at in np.flatnonzero(~np.isfinite(values)):
        plain[at] = number(float(values[at])) or 0.0
    return plain
