"""
What can go wrong, as one tree::

    TrainvitalsError
    +-- BadFrame       bytes that are no frame, or a frame that contradicts itself
    +-- BadSetting     a setting, contract or argument that cannot be meant (also a ValueError)

Training never sees any of them after `attach()` has returned.
"""

from __future__ import annotations


class TrainvitalsError(Exception):
    """The root of our exceptions."""


class BadFrame(TrainvitalsError):
    """Bytes that are no frame, or a frame that contradicts itself; the text is for its sender."""


class BadSetting(TrainvitalsError, ValueError):
    """A setting, contract or argument that cannot be meant: what was given, what is allowed, what to do."""
