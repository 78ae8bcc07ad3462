"""
A detector for tests that sees what detectors see, and claims nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trainvitals_monitor.detectors.detector import Alert, Claim, Detector
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.history import View


def onlooker(see: Callable[[View], object]) -> type[Detector]:
    """A detector that calls `see` with the view at each of its looks; to be given to an engine."""

    class Onlooker(Detector):
        """Claims nothing."""

        name = "onlooker"
        family = "numbers"
        severity = Severity.INFO
        summary = "for tests"
        reads = ()
        alert = Alert(summary="for tests")

        def look(self, view: View) -> Iterable[Claim]:
            """Nothing to claim."""
            see(view)
            return []

    return Onlooker
