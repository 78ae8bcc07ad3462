"""
Settings: arguments beat the environment, the environment beats defaults, and nonsense is refused by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from trainvitals.errors import BadSetting
from trainvitals.settings import SETTINGS, Settings, resolve


def test_the_settings_class_has_a_field_each() -> None:
    """SETTINGS and Settings name the same things; every default is one that parse accepts."""
    assert [s.name for s in SETTINGS] == [f.name for f in dataclasses.fields(Settings)]
    for setting in SETTINGS:
        assert setting.parse(setting.default) == setting.default
        assert setting.help


def test_arguments_beat_the_environment() -> None:
    """An argument wins; without it the environment; without that the default."""
    environ = {
        "TRAINVITALS_BUDGET": "none",
        "TRAINVITALS_RUN": "theirs",
        "TRAINVITALS_WATCH": "a.*, b",
    }
    resolved = resolve({"run": "mine"}, environ)
    assert resolved.run == "mine"
    assert resolved.budget is None
    assert resolved.watch == ("a.*", "b")
    assert resolved.interval_s == 1.0


def test_no_budget_is_not_no_argument() -> None:
    """budget=None means no limit, also against the environment; run=None means not given."""
    assert resolve({"budget": None, "run": None}, {"TRAINVITALS_BUDGET": "0.1"}).budget is None


@pytest.mark.parametrize(
    ("given", "environ", "says"),
    [
        ({"budget": 0}, {}, "budget=0"),
        ({"budget": "much"}, {}, "budget='much'"),
        ({}, {"TRAINVITALS_BUDGET": "-1"}, "TRAINVITALS_BUDGET='-1'"),
        ({"queue_bytes": 0.5}, {}, "queue_bytes=0.5"),
        ({"quiet": "perhaps"}, {}, "true or false"),
        ({"watch": [3]}, {}, "FQN patterns"),
        ({"run": 3}, {}, "must be text"),
        ({"budgett": 1}, {}, "the settings are: attempt, budget"),
        ({"monitor": "tcp://x"}, {}, "http://host:port"),
    ],
)
def test_nonsense_is_refused_by_name(
    given: dict[str, Any], environ: dict[str, str], says: str
) -> None:
    """The error names the setting, what was given and what is allowed."""
    with pytest.raises(BadSetting, match=says):
        resolve(given, environ)
