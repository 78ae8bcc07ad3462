"""
What an attempt knows from steps whose frames were forgotten: written down now and then, for a restart to go on from.

A restart gives the frames that are left to the history again, and of older steps there are none. What later steps need
of those is little, and bounded by the numbers of tensors and parameter groups: how learning rates began and where they
have been, which tensors ever moved, and the last look at what is looked at rarely.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

if TYPE_CHECKING:
    from trainvitals_monitor.history.attempt import AttemptHistory

Columns = Mapping[str, npt.NDArray[Any]]

_SAID = "said"
_MOVED, _LATEST, _DIGESTS = "moved.", "latest.", "digests."


def lasting_of(attempt: AttemptHistory, before: int) -> bytes:
    """
    What the attempt knows after the step judged last. Looks at the step `before` and at later ones are left out: their
    frames are kept.

    Cost: 1 ms for 2,000 tensors in 10 groups.
    """
    said = {
        "through": attempt.step,
        "fqns": attempt.tensors.fqn,
        "rates": attempt.held.as_json(),
        "moved": (attempt.moved.since, attempt.moved.num_at_start),
    }
    arrays: dict[str, npt.NDArray[Any]] = {}
    arrays[_SAID] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    arrays |= {_MOVED + name: column for name, column in attempt.moved.columns.items()}
    for stat in attempt.window.stats:
        steps = attempt.window.last_seen(stat)
        rows = {"value": attempt.window.latest(stat), "step": steps}
        arrays |= _old(f"{_LATEST}{stat}.", rows, steps, before)
    digests, steps = attempt.digests.latest(len(attempt.tensors))
    arrays |= _old(_DIGESTS, {**digests, "step": steps}, steps, before)
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _old(
    prefix: str, columns: Columns, steps: npt.NDArray[np.int64], before: int
) -> dict[str, npt.NDArray[Any]]:
    old = np.flatnonzero((steps >= 0) & (steps < before))
    if not len(old):
        return {}
    rows = {name: column[old] for name, column in columns.items()}
    return {prefix + name: column for name, column in {**rows, "tensor": old}.items()}


class Lasting:
    """What `lasting_of` wrote, on its way back into the attempt, whose tensors are named little by little."""

    def __init__(self, blob: bytes) -> None:
        arrays = load(blob)
        said = json.loads(arrays.pop(_SAID).tobytes())
        self._through: int = said["through"]
        self._fqns: list[str] = said["fqns"]
        self._rates = said["rates"]
        self._since, self._num_at_start = said["moved"]
        self._arrays = arrays
        self._num_named = -1
        self._placed = np.zeros(len(self._fqns), np.bool_)

    def place(self, attempt: AttemptHistory) -> None:
        """Into the attempt as far as its tensors are named by now, before the step that has begun is written."""
        if self._num_named < 0:
            attempt.held.restore(self._rates, self._through)
            attempt.moved.restore(self._since, self._num_at_start, self._through)
        if self._num_named == len(attempt.tensors):
            return
        self._num_named = len(attempt.tensors)
        known = [attempt.tensors.index_of(fqn) for fqn in self._fqns]
        index = np.array([-1 if i is None else i for i in known], np.int64)
        fresh = (index >= 0) & ~self._placed
        self._placed |= fresh
        moved = {name: column[fresh[: len(column)]] for name, column in self._under(_MOVED).items()}
        attempt.moved.put(index[fresh][: len(moved["first"])], moved, len(attempt.tensors))
        for stat in {name.split(".")[1] for name in self._arrays if name.startswith(_LATEST)}:
            rows = self._under(f"{_LATEST}{stat}.")
            new = fresh[rows["tensor"]]
            at = index[rows["tensor"][new]]
            attempt.window.remember(stat, at, rows["value"][new], rows["step"][new])
        rows = self._under(_DIGESTS)
        if rows:
            new = fresh[rows["tensor"]]
            at = index[rows.pop("tensor")[new]]
            columns = {name: column[new] for name, column in rows.items()}
            attempt.digests.remember(columns.pop("step"), at, columns, len(attempt.tensors))

    def _under(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        return {
            name[len(prefix) :]: array
            for name, array in self._arrays.items()
            if name.startswith(prefix)
        }
