"""
What holds for every test: nothing is taken from, or left in, the user's own environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LONG = ("slow", "trainers", "distributed")


@pytest.fixture(autouse=True)
def own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No TRAINVITALS_ variable of the user's is seen, and frames that can't be sent wait in a temporary folder."""
    for name in [name for name in os.environ if name.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINVITALS_SPOOL", str(_spool(tmp_path_factory)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, so that no worker is left alone with one at the end."""
    long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: item.path not in long)


def _spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "spool"
