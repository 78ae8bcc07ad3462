"""
What a test of a detector needs: a stream of facts, and what is to be found in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.monitor.stream import Stream
from trainvitals_monitor.detectors import Detector
from trainvitals_monitor.findings import Severity

SEVERE = Severity.WARNING.rank
"""Severities up to this rank count as found; info is what a sound run may have."""


@dataclass(frozen=True)
class Scenario:
    """
    A made-up run for one detector.

    `fires`: the severity that must be found, None for a run that must stay without a warning. `first_step` and
    `subject`: of the finding, where they matter. `says`: words that its message must have.
    """

    detector: type[Detector]
    make: Callable[[], Stream]
    fires: Severity | None = None
    first_step: int | None = None
    subject: str | None = None
    says: str = ""

    def __str__(self) -> str:
        return f"{self.detector.name}: {self.make.__name__.replace('_', ' ')}"


class Scenarios:
    """The scenarios of one file, collected by decorators."""

    def __init__(self) -> None:
        self._found: list[Scenario] = []

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self._found)

    def fires(
        self, detector: type[Detector], severity: Severity, **expected: Any
    ) -> Callable[[Callable[[], Stream]], Callable[[], Stream]]:
        """The decorated function makes a stream in which the detector must find this."""

        def add(make: Callable[[], Stream]) -> Callable[[], Stream]:
            self._found.append(Scenario(detector, make, severity, **expected))
            return make

        return add

    def silent(
        self, *detectors: type[Detector]
    ) -> Callable[[Callable[[], Stream]], Callable[[], Stream]]:
        """The decorated function makes a stream in which these detectors must find nothing above info."""

        def add(make: Callable[[], Stream]) -> Callable[[], Stream]:
            self._found.extend(Scenario(detector, make) for detector in detectors)
            return make

        return add
