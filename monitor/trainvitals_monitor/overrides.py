"""
Thresholds that differ from a detector's own, and detectors that are switched off: from a file, and from a contract.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainvitals.contract_file import did_you_mean, read_contract
from trainvitals.errors import BadSetting
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.detectors.detector import Detector

Overrides = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Detector name -> FQN pattern ("*" for all) -> {threshold name: value}."""


@dataclass(frozen=True)
class Tuning:
    """What differs from the catalogue: `overrides` of thresholds, and names of detectors that are `off`."""

    overrides: Overrides = field(default_factory=dict)
    off: Sequence[str] = ()

    def of(self, detector: str) -> Mapping[str, Mapping[str, float]]:
        """What is overridden of this detector."""
        return self.overrides.get(detector, {})


def read_tuning(path: str | os.PathLike[str]) -> Tuning:
    """The thresholds of a contract's file, or of a file with nothing else. Raises BadSetting."""
    contract = read_contract(path)
    tuning = Tuning(contract.thresholds, contract.off)
    for fault in faults(tuning, DETECTORS):
        raise BadSetting(f"{os.fspath(path)}: {fault}")
    return tuning


def faults(tuning: Tuning, detectors: Iterable[type[Detector]]) -> Iterator[str]:
    """A sentence for each name that there is not, with what was probably meant."""
    known = {
        detector.name: tuple(one.name for one in detector.thresholds) for detector in detectors
    }
    for name in dict.fromkeys([*tuning.overrides, *tuning.off]):
        if name not in known:
            guess = did_you_mean(name, tuple(known)) or "; docs/detectors.md lists them"
            yield f"thresholds: there is no detector {name!r}{guess}"
            continue
        for pattern, values in tuning.of(name).items():
            for threshold in values:
                if threshold not in known[name]:
                    has = f"it has: {', '.join(known[name])}" if known[name] else "it has none"
                    guess = did_you_mean(threshold, known[name])
                    yield f"thresholds: {name} has no threshold {threshold!r}{guess} (for {pattern!r}); {has}"


def joined(below: Tuning, above: Tuning, detectors: Iterable[type[Detector]]) -> Tuning:
    """Both; where both say something, the one above counts. What no detector has is left out of the one above."""
    overrides: dict[str, dict[str, dict[str, float]]] = {}
    known = {detector.name: {one.name for one in detector.thresholds} for detector in detectors}
    for tuning in (below, above):
        for name in tuning.overrides.keys() & known.keys():
            patterns = overrides.setdefault(name, {})
            for pattern, values in tuning.of(name).items():
                kept = {key: value for key, value in values.items() if key in known[name]}
                patterns[pattern] = {**patterns.get(pattern, {}), **kept}
    return Tuning(overrides, tuple(dict.fromkeys([*below.off, *above.off])))
