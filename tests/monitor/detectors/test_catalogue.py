"""
The catalogue of detectors: complete, and each entry declared so that rules, docs and metrics can be made from it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

from trainvitals import frame
from trainvitals.facts import MADE_TABLES, TABLES
from trainvitals_monitor import detectors
from trainvitals_monitor.detectors import DETECTORS, Detector

SECTIONS = ("Detects", "Why it matters", "Known causes", "Fix", "Misses")
FAMILIES = {"identity", "movement", "coverage", "numbers", "gradients", "moe", "lora", "loss"} | {
    "optimizer",
    "ranks",
    "modes",
    "compare",
    "checkpoint",
    "inputs",
}
FACTS = {column.name for table in (*TABLES, *MADE_TABLES) for column in table.columns} | {
    table.name for table in TABLES
}


def _sections(detector: type[Detector]) -> dict[str, str]:
    """The docstring's sections by title; a title stands alone on its line and ends in a colon."""
    found = re.split(r"^([A-Z][a-z ]+):\s*$", inspect.cleandoc(detector.__doc__ or ""), flags=re.M)
    return {title: text.strip() for title, text in zip(found[1::2], found[2::2], strict=True)}


def test_no_detector_is_missing_from_the_catalogue() -> None:
    """Every detector class in the package is in DETECTORS, once, in a file of its own name."""
    found = []
    for module in pkgutil.iter_modules(detectors.__path__):
        content = vars(importlib.import_module(f"{detectors.__name__}.{module.name}"))
        own = [
            value
            for value in content.values()
            if inspect.isclass(value)
            and issubclass(value, Detector)
            and value is not Detector
            and value.__module__.endswith(f".{module.name}")
        ]
        assert [one.name.replace("-", "_") for one in own] in ([], [module.name])
        found += own
    assert sorted(DETECTORS, key=lambda one: one.name) == sorted(found, key=lambda one: one.name)
    assert len({one.name for one in DETECTORS}) == len(DETECTORS)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda one: one.name)
def test_a_detector_has_a_manual_page(detector: type[Detector]) -> None:
    """The class docstring has the five sections, in order, none of them empty."""
    sections = _sections(detector)
    assert tuple(sections) == SECTIONS
    assert all(len(text) > 20 and text.endswith(".") for text in sections.values())


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda one: one.name)
def test_a_detector_is_declared_in_full(detector: type[Detector]) -> None:
    """Name, family, summary, what it reads, its alert and its thresholds with unit and reason."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", detector.name)
    assert detector.family in FAMILIES
    assert detector.summary.endswith(".")
    assert re.fullmatch(r"\d+[smh]", detector.alert.hold)
    assert detector.alert.summary
    assert not detector.alert.summary.endswith(".")
    assert detector.reads
    known = FACTS | {name for name in dir(frame) if name[0].isupper()}
    assert set(detector.reads) <= known
    for threshold in detector.thresholds:
        assert threshold.unit
        assert threshold.reason
        assert detector().value(threshold.name) == threshold.default


def test_an_unknown_threshold_is_refused() -> None:
    """An override that names no threshold says which there are."""
    with pytest.raises(ValueError, match="has no threshold 'nope'"):
        DETECTORS[0]({"*": {"nope": 1.0}})
