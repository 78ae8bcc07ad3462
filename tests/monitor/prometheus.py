"""
Prometheus' own tools for tests: promtool, prometheus, amtool, prometheus-alertmanager.
"""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Where the tool is. The test is skipped where it is not installed, which CI forbids: REQUIRE_PROMETHEUS=1."""
    path = shutil.which(name)
    if path is None:
        missing = (
            f"{name} is not installed (Debian: apt-get install prometheus prometheus-alertmanager)"
        )
        assert not os.environ.get("REQUIRE_PROMETHEUS"), missing
        pytest.skip(missing)
    return path
