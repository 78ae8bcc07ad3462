"""
The public face: what can be imported from where, and that it stays so.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainvitals
import trainvitals_monitor

PUBLIC = {
    "Agent",
    "BadFrame",
    "BadSetting",
    "Contract",
    "FindingRaised",
    "TrainvitalsError",
    "__version__",
    "attach",
}
AGENT_METHODS = {
    "at_close", "attempt", "close", "coverage", "findings", "flush", "log", "plan", "run", "step", "touched",
}  # fmt: skip
MODULES = [
    module.name
    for package in (trainvitals, trainvitals_monitor)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
    # These import the library that they are for: tests/trainers.
    and not module.name.startswith("trainvitals.integrations.")
]


def test_names_of_the_package() -> None:
    """`trainvitals` exports these names and no others, and each can be had."""
    assert set(trainvitals.__all__) == PUBLIC
    assert dir(trainvitals) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(trainvitals, name) is not None


def test_methods_of_the_agent() -> None:
    """An agent's public methods and attributes are these; a promised one must not vanish, a new one is a decision."""
    members = {
        name for name, _ in inspect.getmembers(trainvitals.Agent) if not name.startswith("_")
    }
    source = inspect.getsource(trainvitals.Agent.__init__)
    promised = {name for name in AGENT_METHODS if name in members or f"self.{name} = " in source}
    assert promised == AGENT_METHODS
    assert members - AGENT_METHODS <= {"start"}


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'attatch'"):
        trainvitals.attatch  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name: str) -> None:
    """Every module can be imported, and begins with a docstring."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    if Path(module.__file__).read_text().strip():
        assert (module.__doc__ or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import trainvitals", "torch numpy safetensors"),
        ("import trainvitals.frame, trainvitals.settings, trainvitals.contract", "torch"),
        ("import trainvitals_monitor.cli", "torch fastapi"),
        ("import trainvitals_monitor.server, trainvitals_monitor.replay", "torch"),
        ("import torch, trainvitals; trainvitals.attach", "trainvitals_monitor fastapi click rich"),
    ],
)
def test_imports_stay_light(statement: str, absent: str) -> None:
    """Reading a frame, serving and the command line need no torch; the agent needs nothing of the monitor's."""
    code = f"{statement}; import sys; print(*[n for n in {absent.split()!r} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
