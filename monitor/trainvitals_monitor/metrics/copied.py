"""
What a scrape copies of a run, under its lock: a few columns and numbers, so that ingest waits for no rendering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.findings import Finding
from trainvitals_monitor.first_cause import standing
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.live import LiveRun
from trainvitals_monitor.metrics.layout import Layout
from trainvitals_monitor.mutes import Mutes
from trainvitals_monitor.report import looked

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

COLUMNS = (
    "norm",
    "nonfinite",
    "update_norm",
    "since",
    "looked",
    "changed",
    "grad_norm",
    "low",
    "high",
    "experts",
    "effective_experts",
    "busiest",
    "unused",
)
WINDOW = 256
"""Steps over which a trend is taken."""


@dataclass(frozen=True)
class Copied:
    """
    One run at a scrape. `columns`: a statistic's last value by tensor, NaN for none; `trends`: by
    watched tensor of the layout (see _trends).
    """

    run: str
    page: str
    said: dict[str, Any]
    last_heard: float
    frames: int
    frame_bytes: int
    frames_spooled: int
    frames_waiting: int
    covered: float
    oldest_look: int | None
    reporting: int
    lags: list[int]
    findings: list[Finding]
    standing: list[Finding]
    muted: int
    silenced: bool
    checkpoints: list[Checkpoint]
    keys_before: frozenset[str]
    counts: dict[str, int]
    offset: int
    layout: Layout
    columns: dict[str, FloatArray]
    trends: dict[str, FloatArray]


def copied(live: LiveRun, known: Layout | None, mutes: Mutes) -> Copied | None:
    """The run as it is now, None before its first frame; `known` is used again if the model is still that."""
    with live.lock:
        engine = live.engine
        said, attempt = engine.summary(), engine.history.current
        if attempt is None:
            return None
        seen, oldest = looked(attempt, "values") or (0.0, None)
        layout = known if known and known.is_of(attempt) else Layout.of(live.name, attempt)
        findings = engine.findings
        alone = standing(findings)
        heard = mutes.heard(alone)
        furthest = max(rank.complete_through for rank in attempt.ranks.values())
        return Copied(
            run=live.name,
            page=live.page,
            said=said,
            last_heard=live.hearing.last,
            frames=live.frames,
            frame_bytes=live.frame_bytes,
            frames_spooled=live.frames_spooled,
            frames_waiting=sum(live.waiting.values()),
            covered=seen,
            oldest_look=oldest,
            reporting=live.hearing.num_reporting(attempt),
            lags=[
                0 if rank.phase == "closed" else furthest - rank.complete_through
                for rank in attempt.ranks.values()
            ],
            findings=findings,
            standing=heard,
            muted=len(alone) - len(heard),
            silenced=mutes.silences(live.name),
            checkpoints=list(attempt.checkpoints.presented),
            keys_before=attempt.previous.saved_keys if attempt.previous else frozenset(),
            counts=dict(attempt.checkpoints.counts),
            offset=attempt.step_offset or 0,
            layout=layout,
            columns={stat: _column(attempt, stat, layout.size) for stat in COLUMNS},
            trends=_trends(attempt, layout),
        )


def _column(attempt: AttemptHistory, stat: str, size: int) -> FloatArray:
    """A copy, as long as the tensor table: a tensor that was named and not looked at has no row in the window yet."""
    latest = attempt.window.latest(stat)[:size]
    column = latest.copy() if len(latest) == size else np.full(size, np.nan)
    column[: len(latest)] = latest
    return column


def _trends(attempt: AttemptHistory, layout: Layout) -> dict[str, FloatArray]:
    """Over the window: how far the middle of each expert bias moved, and what the logarithm of each LoRA A's norm grew a step."""
    middle, _ = _moved(attempt, layout.biases, ("low", "high"), lambda low, high: (low + high) / 2)
    grown, steps = _moved(attempt, layout.adapters.a, ("norm",), np.log)
    return {"bias": middle, "lora_a": grown / steps}


def _moved(
    attempt: AttemptHistory, tensors: IntArray, stats: tuple[str, ...], of: Callable[..., FloatArray]
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """
    Last less first, and the steps between; NaN where there are no two finite looks. `of`: what is asked for, from these
    statistics; a look at which it is not finite does not count.
    """
    moved, apart = np.full(len(tensors), np.nan), np.full(len(tensors), np.nan)
    window = attempt.window
    inside = np.flatnonzero(tensors < len(window.latest(stats[0])))
    steps = window.last_steps(WINDOW)
    if not len(inside) or len(steps) < 2:
        return moved, apart
    looks = [window.last(stat, WINDOW)[0][:, tensors[inside]] for stat in stats]
    # A norm of zero has no logarithm. Only two looks of each tensor are computed with: this is under the run's lock.
    known = np.all(
        [np.isfinite(look) & ((look > 0) | (of is not np.log)) for look in looks], axis=0
    )
    column = np.arange(len(inside))
    first, last = known.argmax(axis=0), len(steps) - 1 - known[::-1].argmax(axis=0)
    between = (steps[last] - steps[first]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        after, before = (of(*(look[at, column] for look in looks)) for at in (last, first))
        moved[inside] = np.where(known.any(axis=0) & (between > 0), after - before, np.nan)
    apart[inside] = between
    return moved, apart
