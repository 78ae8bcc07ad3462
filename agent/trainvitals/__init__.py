"""
The vital signs of a training run: attach an agent to a trainer, and be told what is silently wrong.

    import trainvitals

    agent = trainvitals.attach(model, optimizer)

Importing this package imports neither torch nor numpy; `trainvitals.frame` reads frames without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainvitals.agent import Agent
    from trainvitals.attaching import attach
    from trainvitals.contract import Contract
    from trainvitals.errors import BadFrame, BadSetting, FindingRaised, TrainvitalsError

__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent",
    "BadFrame": "errors",
    "BadSetting": "errors",
    "Contract": "contract",
    "FindingRaised": "errors",
    "TrainvitalsError": "errors",
    "attach": "attaching",
}

__all__ = [
    "Agent",
    "BadFrame",
    "BadSetting",
    "Contract",
    "FindingRaised",
    "TrainvitalsError",
    "__version__",
    "attach",
]


def __getattr__(name: str) -> Any:
    # Public names load their modules at first use (PEP 562), so that reading a frame does not import torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'trainvitals' has no attribute {name!r}")
    return getattr(import_module(f"trainvitals.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
