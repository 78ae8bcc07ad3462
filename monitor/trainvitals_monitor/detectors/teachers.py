"""
Which parameters are another's copy: those of teachers, averages and target networks, and the student's beside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals_monitor.detectors.detector import IntArray
from trainvitals_monitor.history import View


class Teachers(NamedTuple):
    """
    Pairs, one a row: `mine` is a parameter that no optimizer holds, `its` the held one of the same shape whose name is
    the same but for its first parts. `root` numbers the names that the copies differ by: one for each teacher.
    """

    mine: IntArray
    its: IntArray
    root: IntArray


def teachers_of(view: View) -> Teachers:
    """Made once per attempt, and anew when the optimizers change."""
    return view.cached("teachers", lambda: _find(view))


def _find(view: View) -> Teachers:
    table, held = view.tensors, view.held
    students: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index in np.flatnonzero(table.is_param & held).tolist():
        for _, tail in _tails(table.fqn[index]):
            students.setdefault((tail, table.shape[index]), []).append(index)
    rows: list[tuple[int, int, int]] = []
    roots: dict[str, int] = {}
    alone = table.is_param & ~held & (view.tied_to < 0)
    for index in np.flatnonzero(alone).tolist():
        for root, tail in _tails(table.fqn[index])[1:]:  # the longest first, its own name left out
            found = students.get((tail, table.shape[index]), [])
            if found:
                if len(found) == 1:
                    rows.append((index, found[0], roots.setdefault(root, len(roots))))
                break
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Teachers(columns[:, 0], columns[:, 1], columns[:, 2])


def _tails(fqn: str) -> list[tuple[str, str]]:
    """What is cut off, and what is left: nothing, the first part, the first two and so on."""
    parts = fqn.split(".")
    return [(".".join(parts[:start]), ".".join(parts[start:])) for start in range(len(parts))]
