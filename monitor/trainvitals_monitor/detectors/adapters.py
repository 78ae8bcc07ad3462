"""
LoRA adapters as the tensor table shows them: which A belongs to which B, and which weight they adapt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from trainvitals.roles import Role
from trainvitals_monitor.detectors.detector import BoolArray, FloatArray, IntArray
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


def is_trained(view: View, adapters: Adapters) -> BoolArray:
    """Per adapter: B is trainable, an optimizer holds it at a rate above 0, and the backward pass reached it when last seen."""
    b = adapters.b
    with np.errstate(invalid="ignore"):
        trained: BoolArray = view.tensors.trainable[b] & view.held[b] & (view.lr[b] > 0)
        trained &= (view.latest("grad_missing") == 0)[b]
    return trained


def waits_for_b(view: View) -> BoolArray:
    """Tensors that are the A of an adapter whose B is zero, and has a gradient: until B moves A has none."""
    adapters = adapters_of(view)
    with np.errstate(invalid="ignore"):
        waits = (view.latest("norm") == 0) & (view.latest("grad_norm") > 0)
    found = np.zeros(view.num_tensors, np.bool_)
    found[adapters.a[waits[adapters.b]]] = True
    return found


def adapters_in(table: TensorTable) -> Adapters:
    """The adapters among these tensors: by name in the table's order, then by structure."""
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
    known = {index for row in rows for index in row}
    for a, b, base in _by_structure(table, known):
        rows.append((a, b, base))
        widest.append(_widest_initialisation(table.shape[a]))
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return Adapters(columns[:, 0], columns[:, 1], columns[:, 2], np.array(widest, np.float64))


def _by_structure(table: TensorTable, known: set[int]) -> Iterator[tuple[int, int, int]]:
    """
    A, B and what they adapt, whatever they are called: in one module a frozen weight [out, in] and two trained ones,
    [r, in] and [out, r] with r at most half of both; and no other matrix.
    """
    homes: dict[str, list[int]] = {}
    for index in np.flatnonzero(table.is_param).tolist():
        if len(table.shape[index]) == 2 and index not in known:
            module = table.fqn[index].rpartition(".")[0]
            for home in {module, module.rpartition(".")[0]} - {""}:
                homes.setdefault(home, []).append(index)
    for members in homes.values():
        trained = [index for index in members if table.trainable[index]]
        frozen = [index for index in members if not table.trainable[index]]
        if len(trained) != 2 or len(frozen) != 1:
            continue
        rows, columns = table.shape[frozen[0]]
        for a, b in (trained, trained[::-1]):
            rank = table.shape[a][0]
            narrow = 0 < 2 * rank <= min(rows, columns)
            if narrow and table.shape[a] == (rank, columns) and table.shape[b] == (rows, rank):
                yield a, b, frozen[0]
                break


def _widest_initialisation(shape: tuple[int, ...]) -> float:
    # A is [rank, fan_in] as a rule; some write it the other way round, and the rank is the smaller of the two.
    if not shape or 0 in shape:
        return 1.0
    rest = int(np.prod(shape[1:]))
    return float(1.0 / np.sqrt(min(shape[0], rest)))
