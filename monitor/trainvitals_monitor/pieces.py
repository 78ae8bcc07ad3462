"""
Series on their way to the store: every so many steps, what the window holds of them is cut off as one piece.

Pieces lie on multiples of their length in our step numbers, so that a step always falls into the same piece: cutting
again after a restart gives the same pieces again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.history.attempt import AttemptHistory

PIECE_STEPS = 128

Values = npt.NDArray[np.float64]
Seen = npt.NDArray[np.bool_]
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """
    All series of an attempt over up to PIECE_STEPS judged steps (ours; fewer where the window is shorter).

    `fqns` are the n tensors; `statistics` have values and seen, [k, n], over `steps` [k]; `scalars` bring their own
    steps. Arrays are read-only, and stay as they are while the piece is held: the window lends them.
    """

    attempt: str
    steps: Steps
    fqns: list[str]
    statistics: Mapping[str, tuple[Values, Seen]]
    scalars: Mapping[str, tuple[Steps, Values]]


def piece_steps(attempt: AttemptHistory) -> int:
    """The length of the attempt's pieces; they lie on multiples of it."""
    return min(PIECE_STEPS, attempt.window.length // 2)


def cut(attempt: AttemptHistory, step: int | None, mark: int) -> list[Piece]:
    """
    The pieces that are complete now that `step` has begun (None: the attempt has ended).

    `mark`: steps up to it were judged before a restart, so pieces that were complete by then rest in the store already.
    """
    length = piece_steps(attempt)
    upper = attempt.step + 1 if step is None else step - step % length
    first = attempt.cut_through
    if upper <= first:
        return []
    attempt.cut_through = upper
    begin = max(first, upper - attempt.window.length)
    bounds = range(begin - begin % length, upper, length)
    made = [_piece(attempt, start, min(start + length, upper)) for start in bounds]
    return [piece for piece in made if piece is not None and _is_new(piece, length, mark)]


def _is_new(piece: Piece, length: int, mark: int) -> bool:
    start = int(piece.steps[0])
    return start - start % length + length > mark


def _piece(attempt: AttemptHistory, first_step: int, end_step: int) -> Piece | None:
    window = attempt.window
    start, end = window.rows(first_step, end_step)
    if start == end:
        return None
    statistics = {}
    for stat in window.stats:
        values, seen = window.between(stat, start, end)
        if seen.any():
            statistics[stat] = (values, seen)
    scalars = {
        name: attempt.scalars.between(name, first_step, end_step) for name in attempt.scalars.names
    }
    piece = Piece(
        attempt=attempt.key,
        steps=window.steps_of(start, end).copy(),
        fqns=list(attempt.tensors.fqn),
        statistics=statistics,
        scalars={name: found for name, found in scalars.items() if len(found[0])},
    )
    window.lend(piece)
    return piece
