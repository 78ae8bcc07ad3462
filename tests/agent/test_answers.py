"""
What the trainer's log shows of the monitor's answers.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from trainvitals.answers import Answers
from trainvitals.guard import Guard
from trainvitals.record import Record


def finding(name: str, severity: str = "critical", caused_by: str = "") -> dict[str, Any]:
    """A finding as the monitor answers it."""
    return {
        "id": name,
        "detector": name,
        "severity": severity,
        "message": f"{name} is there.",
        "advice": "Look.",
        "caused_by": caused_by,
    }


@pytest.mark.parametrize(
    ("severities", "logged"),
    [(("critical", "critical"), 1), (("critical", "warning"), 1), (("warning", "critical"), 2)],
)
def test_consequences_are_not_repeated(
    severities: tuple[str, str], logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows from a finding that is as bad is not logged, until that one is over."""
    caplog.set_level(logging.INFO, "trainvitals")
    answers = Answers("log", Guard(Record(0), lambda: 0), quiet=False)
    cause, effect = finding("nan", severities[0]), finding("loss", severities[1], caused_by="nan")
    answers.take({"findings": [effect, cause]})
    answers.tell()
    answers.tell()
    assert len(caplog.messages) == logged
    answers.take({"findings": [effect]})
    answers.tell()
    assert len(caplog.messages) == 2


def test_a_callable_gets_them_all() -> None:
    """With their causes: a program may want to know."""
    got: list[str] = []
    answers = Answers(lambda one: got.append(one["id"]), Guard(Record(0), lambda: 0), quiet=False)
    answers.take({"findings": [finding("loss", caused_by="nan"), finding("nan")]})
    answers.tell()
    assert got == ["loss", "nan"]
