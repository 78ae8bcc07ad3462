"""
What a run is called when the trainer knows a name and the user gave none.
"""

from __future__ import annotations

import os
from typing import Any

from trainvitals.settings import SETTING_BY_NAME


def with_run(settings: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The settings with the trainer's name for the run; one given as `run=` or in the environment comes first."""
    if not name or settings.get("run") or os.environ.get(SETTING_BY_NAME["run"].environment):
        return settings
    return {**settings, "run": name}
