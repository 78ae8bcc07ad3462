"""
From an attempt that was well to its lock: what `trainvitals contract write` writes.
"""

from __future__ import annotations

import numpy as np

from trainvitals.lock import Lock, LockedTensor, fold
from trainvitals_monitor.history.attempt import AttemptHistory

MIN_STEPS = 8
"""A tensor whose looks covered fewer steps is not said to stay as it is."""


def lock_of(attempt: AttemptHistory) -> Lock:
    """The attempt's tensors as they were first seen, and which of them have moved."""
    moved, offset = attempt.moved, attempt.step_offset or 0
    complete = 0 <= moved.since <= attempt.base_step + 1
    tensors = {}
    for index, info in enumerate(attempt.tensors.first):
        known = index < len(moved.first)
        moves = True if known and moved.first[index] >= 0 else None
        if moves is None and complete and known and moved.steps[index] >= MIN_STEPS:
            moves = False
        tensors[info.fqn] = LockedTensor(
            kind=info.kind,
            dtype=info.dtype,
            shape=tuple(info.shape),
            trainable=info.trainable,
            persistent=info.persistent,
            moves=moves,
            late=index >= moved.num_at_start,
        )
    within = int(np.max(moved.first, initial=-1)) - attempt.base_step
    return Lock(
        tensors=fold(tensors),
        first_step=max(attempt.base_step + offset, 0),
        last_step=max(attempt.step + offset, 0),
        moved_within=max(within, 0),
    )
