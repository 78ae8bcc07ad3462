"""
What can go wrong, as one tree::

    TrainvitalsError
    +-- BadFrame       bytes that are no frame, or a frame that contradicts itself
    +-- BadSetting     a setting, contract or argument that cannot be meant (also a ValueError)
    +-- FindingRaised  a finding, where the user asked for on_finding="raise"

But for that last one, which was asked for, training never sees any of them after `attach()` has returned.
"""

from __future__ import annotations

from typing import Any


class TrainvitalsError(Exception):
    """The root of our exceptions."""


class BadFrame(TrainvitalsError):
    """Bytes that are no frame, or a frame that contradicts itself; the text is for its sender."""


class BadSetting(TrainvitalsError, ValueError):
    """A setting, contract or argument that cannot be meant: what was given, what is allowed, what to do."""


class FindingRaised(TrainvitalsError):
    """Ends the training at a step, as `on_finding="raise"` asks; `finding` is what the monitor said."""

    def __init__(self, finding: dict[str, Any]) -> None:
        super().__init__(f"{finding['detector']}: {finding['message']}")
        self.finding = finding
