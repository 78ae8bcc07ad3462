"""
LoRA adapters as the tensor table shows them: which A belongs to which B, and which weight they adapt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import FloatArray, IntArray
from trainvitals_monitor.history import View
from trainvitals_monitor.history.tensors import TensorTable

# "wq.lora_A.default.weight", "wq.lora_a.weight", "wq.lora_A", "emb.lora_embedding_A.default"
_LETTER = re.compile(r"(lora_(?:embedding_)?)([Aa])(?=\.|$)")


class Adapters(NamedTuple):
    """
    The adapters of a view, one a row: indices of A, of its B, and of the weight that they adapt (-1: not found).

    `widest` is the root mean square of the widest initialisation of A in use: 1/sqrt(fan_in) (orthonormal rows; Kaiming
    is 0.58 of that) or 1/sqrt(rank) (a normal distribution of that width), whichever is more.
    """

    a: IntArray
    b: IntArray
    base: IntArray
    widest: FloatArray


def adapters_of(view: View) -> Adapters:
    """The adapters of the view's model; made once per attempt."""
    return view.cached("adapters", lambda: adapters_in(view.tensors))


def adapters_in(table: TensorTable) -> Adapters:
    """The adapters among these tensors, in the table's order."""
    rows: list[tuple[int, int, int]] = []
    widest: list[float] = []
    for index, (fqn, role) in enumerate(zip(table.fqn, table.role, strict=True)):
        match = _LETTER.search(fqn) if role is Role.LORA_A else None
        if match is None:
            continue
        letter = "B" if match[2] == "A" else "b"
        other = table.index_of(f"{fqn[: match.start(2)]}{letter}{fqn[match.end(2) :]}")
        base = table.index_of(f"{fqn[: match.start()]}weight")
        if other is not None:
            rows.append((index, other, -1 if base is None else base))
            widest.append(_widest_initialisation(table.shape[index]))
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Adapters(columns[:, 0], columns[:, 1], columns[:, 2], np.array(widest, np.float64))


def _widest_initialisation(shape: tuple[int, ...]) -> float:
    # A is [rank, fan_in] as a rule; some write it the other way round, and the rank is the smaller of the two.
    if not shape or 0 in shape:
        return 1.0
    rest = int(np.prod(shape[1:]))
    return float(1.0 / np.sqrt(min(shape[0], rest)))
