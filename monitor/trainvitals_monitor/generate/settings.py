"""
docs/settings.md, from the agent's SETTINGS.
"""

from __future__ import annotations

from typing import Any

from trainvitals.settings import SETTINGS
from trainvitals_monitor.generate.markdown import GENERATED, table

_INTRODUCTION = """
# Settings of the agent

Each is an argument of `trainvitals.attach(...)`, an option of `trainvitals run` (with `-` for `_`) and an environment
variable. An argument beats the environment, the environment beats the default. A wrong value fails at `attach()`, with
what was given and what is allowed.

"""


def settings_page() -> str:
    """The page's text."""
    rows = [
        (
            f"`{setting.name}`",
            setting.type,
            _default(setting.default),
            f"`{setting.environment}`",
            setting.help,
        )
        for setting in SETTINGS
    ]
    head = ("setting", "type", "default", "environment variable", "what it does")
    return GENERATED.format(source="trainvitals/settings.py") + _INTRODUCTION + table(head, rows)


def _default(value: Any) -> str:
    return "(none)" if value in ("", ()) else f"`{value}`"
