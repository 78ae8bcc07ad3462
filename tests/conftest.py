"""
What holds for every test: nothing is taken from, or left in, the user's own environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No TRAINVITALS_ variable of the user's is seen, and frames that can't be sent wait in a temporary folder."""
    for name in [name for name in os.environ if name.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINVITALS_SPOOL", str(_spool(tmp_path_factory)))


def _spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "spool"
