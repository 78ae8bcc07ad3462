"""
From a piece of the engine's series to chunks of the store: which tensor's record is where.

A series keeps its place within its attempt for ever, also when a restart has led the engine to number tensors in
another order. A logged scalar has a tile of its own, because it has steps of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.chunks import TILE, Bools, Chunk, Floats, pack
from trainvitals_monitor.pieces import Piece


@dataclass
class Places:
    """Where the series of one attempt are; `fresh` are those that the store does not know yet."""

    tensors: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, int] = field(default_factory=dict)
    fresh_tensors: dict[str, int] = field(default_factory=dict)
    fresh_scalars: dict[str, int] = field(default_factory=dict)

    def of_tensor(self, fqn: str) -> tuple[int, int] | None:
        """Tile and record of a tensor."""
        place = self.tensors.get(fqn)
        return None if place is None else divmod(place, TILE)

    def of_scalar(self, name: str) -> tuple[int, int] | None:
        """Tile and record of a scalar."""
        place = self.scalars.get(name)
        return None if place is None else (place, 0)

    @property
    def num_tiles(self) -> dict[str, int]:
        """By kind of series."""
        return {"tensor": -(-len(self.tensors) // TILE), "scalar": len(self.scalars)}

    def add(self, piece: Piece) -> None:
        """Give every series of the piece a place."""
        self.fresh_tensors = _add(self.tensors, piece.fqns)
        self.fresh_scalars = _add(self.scalars, piece.scalars)

    def tensor_chunk(self, piece: Piece) -> Chunk | None:
        """The tensors of the piece, every one at its place."""
        at = np.fromiter((self.tensors[fqn] for fqn in piece.fqns), np.int64, len(piece.fqns))
        statistics = piece.statistics
        if not np.array_equal(at, np.arange(len(self.tensors))):
            statistics = {
                name: _placed(values, seen, at, len(self.tensors))
                for name, (values, seen) in statistics.items()
            }
        return pack(piece.steps, statistics)

    def scalar_chunks(self, piece: Piece) -> Iterable[tuple[int, Chunk]]:
        """The scalars of the piece: tile, and chunk of one record."""
        for name, (steps, values) in piece.scalars.items():
            seen = np.ones((len(steps), 1), np.bool_)
            chunk = pack(steps, {"value": (values[:, None], seen)})
            if chunk is not None:
                yield self.scalars[name], chunk


def _add(places: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    fresh = {}
    for name in names:
        if name not in places:
            fresh[name] = places[name] = len(places)
    return fresh


def _placed(
    values: Floats, seen: Bools, at: npt.NDArray[np.int64], size: int
) -> tuple[Floats, Bools]:
    shape = (len(values), size)
    moved, there = np.zeros(shape), np.zeros(shape, np.bool_)
    moved[:, at], there[:, at] = values, seen
    return moved, there
