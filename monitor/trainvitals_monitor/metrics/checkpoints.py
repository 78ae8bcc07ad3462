"""
Metrics of a run's checkpoints: what was saved last, and whether one can go back to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history.checkpoints import Checkpoint
from trainvitals_monitor.metrics.block import Sample
from trainvitals_monitor.metrics.copied import Copied
from trainvitals_monitor.metrics.spec import MetricSpec

_RUN = ("run",)

CHECKPOINT_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("trainvitals_checkpoint_last_save_step", "gauge", _RUN, "Step of the last save of the model that did not fail."),
    MetricSpec("trainvitals_checkpoint_last_clean_step", "gauge", _RUN, "Step of the last save from before any fault that is open now; absent if there is none."),
    MetricSpec("trainvitals_checkpoint_stale_tensors", "gauge", _RUN, "Entries of the last save that equal an older state of their tensor and not the one at the save."),
    MetricSpec("trainvitals_checkpoint_keys_changed", "gauge", _RUN, "Keys that only one of the last two saves has; the one before may be an earlier attempt's."),
    MetricSpec("trainvitals_checkpoint_saves", "counter", _RUN, "Saves of a model's state seen in the latest attempt."),
    MetricSpec("trainvitals_checkpoint_loads", "counter", _RUN, "Loads of a model's state seen in the latest attempt."),
)  # fmt: skip
_STEP = re.compile(r"step (\d+)\)?$")


def checkpoint_samples(copied: Copied) -> Iterator[Sample]:
    """What is known of the latest attempt's saves; counts start again with an attempt, as counters may."""
    own = (copied.run,)
    yield "trainvitals_checkpoint_saves", own, copied.counts.get("save", 0)
    yield "trainvitals_checkpoint_loads", own, copied.counts.get("load", 0)
    saves = [
        one for one in copied.checkpoints if one.op == "save" and one.is_model and not one.failed
    ]
    if not saves:
        return
    last_step = saves[-1].step + copied.offset
    yield "trainvitals_checkpoint_last_save_step", own, last_step
    clean = _last_clean(copied, last_step)
    if clean is not None:
        yield "trainvitals_checkpoint_last_clean_step", own, clean
    yield "trainvitals_checkpoint_stale_tensors", own, _stale(saves[-1])
    before = set(saves[-2].keys) if len(saves) > 1 else copied.keys_before
    if before:
        yield "trainvitals_checkpoint_keys_changed", own, len(before ^ set(saves[-1].keys))


def _last_clean(copied: Copied, last_step: int) -> int | None:
    """The earliest of the checkpoints that the open findings above info send one back to."""
    steps = [last_step]
    for one in copied.standing:
        if one.severity is Severity.INFO:
            continue
        told = _STEP.search(one.last_clean_checkpoint)
        if told is None:
            return None
        steps.append(int(told[1]))
    return min(steps)


def _stale(save: Checkpoint) -> int:
    rows = save.rows
    if not {"stale_step", "count", "digest", "live_digest"} <= rows.keys():
        return 0
    differs = rows["digest"] != rows["live_digest"]
    return int(((rows["stale_step"] >= 0) & (rows["count"] > 0) & differs).sum())
