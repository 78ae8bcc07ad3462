"""
What a detector is, and how it is declared: everything that rules, docs, pages and metrics are made from.

A detector is a pure function of facts: it looks at a `View` of one step and answers with claims. It holds no state, so
that the same facts give the same findings live, replayed and after a restart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A number that a detector compares with: its default, its unit, and the reason for it. Overridable per run."""

    name: str
    default: float
    unit: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    """How Prometheus treats an open finding of this detector: `hold` is the rule's `for`, `summary` its one line."""

    hold: str = "0m"
    summary: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """
    What a detector says about some tensors (indices into the view's tensor table), or about the run (none).

    `message` is one sentence: what happened; it may use the fields of the first subject's evidence row and `{fqn}` and
    `{count}` as str.format does. Evidence whose name ends in `_step` holds step numbers of ours, which the engine turns
    into the trainer's. `advice`: what to do. `evidence`: columns as long as `tensors` (or of length one for
    the run). `first_step`, `last_good_step`: per subject, or one for all; our steps, not the trainer's.
    `key` tells apart claims of one detector about the same tensors (such as one per checkpoint file).
    """

    tensors: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    message: str
    advice: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    first_step: IntArray | int | None = None
    last_good_step: IntArray | int = -1
    severity: Severity | None = None
    key: str = ""


class Detector(ABC):
    """
    One fault that can be found. The class docstring of each is its manual page, with the sections Detects,
    Why it matters, Known causes, Fix and Misses.

    `reads`: names of the columns and events of facts and frame.py that it looks at. `resolve_after`: steps without a
    claim after which an open finding is resolved; None: it stays open until the attempt ends (what happened can't
    un-happen).
    """

    name: ClassVar[str]
    family: ClassVar[str]
    severity: ClassVar[Severity]
    summary: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    alert: ClassVar[Alert]
    thresholds: ClassVar[tuple[Threshold, ...]] = ()
    resolve_after: ClassVar[int | None] = 64

    def __init__(self, overrides: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """`overrides`: FQN pattern -> {threshold name: value}; the pattern "*" is for all."""
        known = {threshold.name: threshold.default for threshold in self.thresholds}
        self._overrides = dict(overrides or {})
        for pattern, values in self._overrides.items():
            for name in values:
                if name not in known:
                    raise ValueError(
                        f"{self.name} has no threshold {name!r} (for {pattern!r}); it has: {sorted(known)}"
                    )
        self._values = {**known, **self._overrides.get("*", {})}

    @abstractmethod
    def look(self, view: View) -> Iterable[Claim]:
        """The claims that hold after the view's step; none when all is well or nothing can be said ("no data")."""

    def threshold(self, name: str, view: View) -> npt.NDArray[np.float64]:
        """The threshold's value per tensor of the view, with the overrides that match its FQN; cached by the view."""
        return view.cached((self.name, name), lambda: self._per_tensor(name, view))

    def value(self, name: str) -> float:
        """The threshold's value for the run (its default, or the override for "*")."""
        return self._values[name]

    def _per_tensor(self, name: str, view: View) -> npt.NDArray[np.float64]:
        values = np.full(view.num_tensors, self.value(name))
        for pattern, overrides in self._overrides.items():
            if name in overrides and pattern != "*":
                for index, fqn in enumerate(view.tensors.fqn):
                    if fnmatchcase(fqn, pattern):
                        values[index] = overrides[name]
        return values
