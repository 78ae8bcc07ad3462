"""
Runs a case of the corpus under the agent, as a trainer would, and asks the monitor's engine what it found.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import trainvitals
from trainvitals_monitor.findings import Finding
from trainvitals_monitor.replay import replay

CORPUS = Path(__file__).parent / "corpus"


def load_case(name: str) -> ModuleType:
    """A module of the corpus; its cases import their shared parts as `common`."""
    if str(CORPUS) not in sys.path:
        sys.path.insert(0, str(CORPUS))
    return importlib.import_module(name)


def drive(case: ModuleType, healthy: bool, folder: Path, **settings: Any) -> None:
    """
    One run of one twin, frames to the folder. The agent is attached again when the trainer has re-made its objects,
    as a restarted process would; loss and step are logged as most trainers do.
    """
    run = case.build(healthy, 0, 1)
    attach = {
        "run": f"{case.META['id']}-{folder.name}",
        "monitor": str(folder),
        "quiet": True,
        **settings,
    }
    agent = trainvitals.attach(run.model, _optimizers(run), **attach)
    generation = run.generation
    for i in range(case.META["steps"]):
        loss = run.step(i)
        if run.generation != generation:
            generation = run.generation
            agent.close()
            agent = trainvitals.attach(run.model, _optimizers(run), step=i + 1, **attach)
        agent.log(step=i, loss=loss)
    agent.close()


def findings_of(folder: Path) -> list[Finding]:
    """Every finding that was ever opened on these frames, worst and earliest first."""
    found = [finding for engine in replay(folder) for finding in engine.findings]
    return sorted(found, key=lambda finding: (finding.severity.rank, finding.first_step))


def _optimizers(run: Any) -> Any:
    return run.extra.get("optimizers") or run.optimizer
