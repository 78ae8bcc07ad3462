"""
Frames whose steps rest in chunks and have left the window are let go of, some in each transaction.

A thousand ranks leave 128,000 frames behind at once when a piece is cut off: deleted together they would hold up all
others for a minute.
"""

from __future__ import annotations

from trainvitals_monitor.attempt_at_rest import AttemptAtRest
from trainvitals_monitor.history import RunHistory
from trainvitals_monitor.pieces import piece_steps
from trainvitals_monitor.retention import shrunk
from trainvitals_monitor.writing import Writing

AT_ONCE = 128
"""Frames that one transaction forgets: twice what it may add, so that forgetting never falls behind."""
_EVER = 1 << 62


def forget(writing: Writing, attempt: AttemptAtRest, history: RunHistory) -> None:
    """Let go of old frames of the attempt, within the caller's transaction; of what lasts of them, keep that."""
    if attempt.id is None:
        return
    through = _old_through(attempt, history)
    kept = history.get(attempt.key)
    if kept is not None:
        attempt.save_lasting(writing, kept, through)
    if through <= attempt.forgotten_through:
        return
    floors: dict[int, int] = {}
    dropped = []
    old = writing.old_frames(attempt.id, through, AT_ONCE)
    for row in old:
        if row["lasting"]:
            blob = writing.blob(row["id"])
            writing.shrink_frame(row["id"], shrunk(blob, row["digested"]))
        else:
            dropped.append(row["id"])
        floors[row["rank"]] = max(floors.get(row["rank"], 0), row["seq"] + 1)
    writing.drop_frames(dropped)
    for rank, floor in floors.items():
        attempt.ranks[rank].raise_floor(floor)
        writing.put_floor(attempt.id, rank, floor)
    if len(old) < AT_ONCE:
        attempt.forgotten_through = through


def _old_through(attempt: AttemptAtRest, history: RunHistory) -> int:
    """Frames that speak of nothing after this step are old."""
    if history.is_gone(attempt.key):
        return _EVER
    kept = history.get(attempt.key)
    if kept is None:
        return -1
    window = kept.window.last_steps(kept.window.length)
    if not len(window):
        return -1
    # In pieces, not at every step: one look into the store for many frames.
    first_kept = int(window[0]) - int(window[0]) % piece_steps(kept)
    return min(first_kept, kept.cut_through) - 1
