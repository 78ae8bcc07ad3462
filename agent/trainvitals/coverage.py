"""
What was looked at, and what was never exercised: the agent's own account of how much it can know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainvitals.probes.probe import Choice

NEVER = -1


class Coverage:
    """
    The step of each tensor's last look, by kind of look; arrays of length n, updated with one assignment a kind.

    A tensor counts as exact when every element was read: it is small enough for its cores to hold all of it, or it was
    swept.
    """

    def __init__(self) -> None:
        self._last: dict[str, npt.NDArray[np.int64]] = {}
        self.steps = 0

    def looked(self, choice: Choice, step: int, num_tensors: int) -> None:
        """Note a round's looks."""
        self.steps += 1
        for kind in ("identity", "cores", "sweep", "gradients"):
            last = self._grown(kind, num_tensors)
            indices = getattr(choice, kind)
            if len(indices) == num_tensors:
                last[:] = step
            elif len(indices):
                last[np.asarray(indices)] = step

    def report(
        self,
        *,
        small: npt.NDArray[np.bool_],
        readable: npt.NDArray[np.bool_],
        step: int,
        checkpoints: Mapping[str, Any],
    ) -> dict[str, Any]:
        """
        Plain data: counts, ages in steps, and what was never seen. `small[i]`: cores hold all of tensor i. One that is
        not `readable` (sparse, on meta) was never seen, whoever's turn it was.
        """
        num_tensors = len(small)
        cores = self._grown("cores", num_tensors)
        sweep = self._grown("sweep", num_tensors)
        seen = readable & ((cores != NEVER) | (sweep != NEVER))
        exact = seen & (small | (sweep != NEVER))
        saves, loads = int(checkpoints.get("saves", 0)), int(checkpoints.get("loads", 0))
        never = [
            what
            for what, missing in (
                ("an optimizer step", self.steps == 0),
                ("a save", saves == 0),
                ("a resume (a load)", loads == 0),
            )
            if missing
        ]
        return {
            "steps": self.steps,
            "tensors": num_tensors,
            "tensors_seen": int(seen.sum()),
            "tensors_exact": int(exact.sum()),
            "oldest_look_steps": int(step - cores[seen].min()) if seen.any() else None,
            "saves": saves,
            "loads": loads,
            "never_seen": never,
        }

    def _grown(self, kind: str, num_tensors: int) -> npt.NDArray[np.int64]:
        last = self._last.get(kind)
        if last is None or len(last) < num_tensors:
            grown = np.full(num_tensors, NEVER, np.int64)
            if last is not None:
                grown[: len(last)] = last
            last = self._last[kind] = grown
        return last


def no_coverage() -> dict[str, Any]:
    """The account of one who has looked at nothing, or can't say."""
    nothing = np.zeros(0, np.bool_)
    return Coverage().report(small=nothing, readable=nothing, step=0, checkpoints={})
