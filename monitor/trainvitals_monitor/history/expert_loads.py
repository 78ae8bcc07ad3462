"""
The loads of routers that ranks share: what each counted of its own tokens, added up, and what that means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainvitals.expert_load import routing_row
from trainvitals_monitor.history.replicas import Columns, IntArray, Told

MAX_EXPERTS = 4096
"""Rows of experts beyond this are passed over."""


def routing_of(told: Sequence[Told], tables: Mapping[int, IntArray]) -> tuple[IntArray, Columns]:
    """
    Routers of which every rank that has them told the loads of one step, and the columns of facts.ROUTING.

    Args:
        told: rows of facts.EXPERT_LOADS, one entry a rank.
        tables: by rank, the attempt's indices of the tensors that it has named.
    """
    found = np.unique(np.concatenate([each.tensors for each in told])) if told else np.empty(0)
    rows: list[dict[str, float]] = []
    whole: list[int] = []
    for tensor in found.astype(np.int64).tolist():
        mine = [each for each in told if (each.tensors == tensor).any()]
        if len(mine) < sum(tensor in table for table in tables.values()):
            continue  # some of the tokens are not in
        loads = [_of(each, tensor, "choices") for each in mine]
        recent = [_of(each, tensor, "recent") for each in mine]
        if len({len(load) for load in loads}) > 1 or not np.sum(loads) > 0:
            continue
        chosen = max(int(each.columns["of_a_token"].max(initial=0)) for each in mine)
        row = routing_row(np.sum(loads, axis=0), np.sum(recent, axis=0), chosen)
        # Where a counter holds the sum over ranks already, all of them tell the same choices.
        row["recent_tokens"] = max(float(each.sum()) for each in recent)
        whole.append(tensor)
        rows.append(row)
    names = rows[0] if rows else {}
    return np.array(whole, np.int64), {
        name: np.array([row[name] for row in rows]) for name in names
    }


def _of(told: Told, tensor: int, column: str) -> npt.NDArray[np.float64]:
    """By expert."""
    rows = np.flatnonzero(told.tensors == tensor)
    experts, values = told.columns["expert"][rows], told.columns[column][rows]
    known = (experts >= 0) & (experts < MAX_EXPERTS) & np.isfinite(values) & (values >= 0)
    by_expert = np.zeros(int(experts[known].max(initial=-1)) + 1)
    by_expert[experts[known]] = values[known]
    return by_expert
