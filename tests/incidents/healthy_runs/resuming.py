"""
Trainers that are saved, stopped, and resumed with new objects in the middle of a run, as a new process would.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from tests.incidents.healthy_runs.run import Run, blobs

RESUME = 40

Parts = dict[str, Any]


def saved(state: Parts) -> Parts:
    """What comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: Parts = torch.load(file)
    return loaded


def _save_all(parts: Parts) -> Parts:
    return {name: part.state_dict() for name, part in parts.items()}


def _load_all(parts: Parts, state: Parts) -> None:
    for name, part in parts.items():
        part.load_state_dict(state[name])


def resumed(
    make: Callable[[int], Parts],
    save: Callable[[Parts], Parts] = _save_all,
    load: Callable[[Parts, Parts], None] = _load_all,
    at: tuple[int, ...] = (RESUME,),
    kept: int | None = None,
) -> Run:
    """
    A trainer of `make(attempt)`: "model", "optimizer" and perhaps "scheduler". `save` and `load` say what goes into the
    checkpoint (made with torch.save, in memory), and what comes out of it; `kept` is the step after which it is made,
    if that is earlier than the restart.
    """
    parts, state = make(0), Parts()

    def step(i: int) -> float:
        if i == kept:
            state.update(saved(save(parts)))
        if i in at:
            if kept is None:
                state.update(saved(save(parts)))
            parts.update(make(run.generation + 1))
            load(parts, state)
            run.renew(parts["model"], parts["optimizer"])
        values, labels = blobs(i)
        loss = functional.cross_entropy(parts["model"](values), labels)
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
        if "scheduler" in parts:
            parts["scheduler"].step()
        return loss.item()

    run = Run(parts["model"], parts["optimizer"], step)
    return run
