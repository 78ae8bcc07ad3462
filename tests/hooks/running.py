"""
A trainer of the hook matrix, run once alone and once with the agent: what it leaves behind, and what it cost Dynamo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.optim import Optimizer

import trainvitals
from tests.hooks.footprint import Footprint, changed, footprint
from trainvitals.frame import decode

SEED = 11


@dataclass
class Trainer:
    """
    A trainer that is ready: `train(i)` is one iteration, which answers with the loss. `save(folder)`: a checkpoint in
    the middle.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    train: Callable[[int], torch.Tensor]
    save: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Row:
    """
    One row: how many iterations are run, and how many steps they are; `graphs`: how many Dynamo makes, if known.

    `compiles_step`: `Optimizer.step` itself is compiled. torch breaks the graph there by itself, before anything is in
    it; with the agent Dynamo passes over the frame that calls the hooks, and so has less to break.
    """

    build: Callable[[], Trainer]
    iterations: int = 6
    steps: int = 6
    graphs: int | None = None
    compiles_step: bool = False

    @property
    def name(self) -> str:
        """The function that builds it."""
        return self.build.__name__.strip("_")


@dataclass
class Observed:
    """
    What a run left: `bits` of losses and state, Dynamo's `counters`; with the agent also the `steps` that it sent, its
    `coverage`, and what it `touched`. The process's and the trainer's footprint `before` the first step, `within` the
    training, after its first step, and `after` it, when the agent is closed.
    """

    bits: dict[str, bytes]
    counters: dict[str, dict[str, int]]
    steps: list[int] = field(default_factory=list)
    coverage: Mapping[str, Any] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)
    before: Footprint = field(default_factory=dict)
    within: Footprint = field(default_factory=dict)
    after: Footprint = field(default_factory=dict)

    def different(self, other: Observed) -> list[str]:
        """Names of what is not the same to the bit."""
        names = self.bits.keys() | other.bits.keys()
        return sorted(name for name in names if self.bits.get(name) != other.bits.get(name))


def run_alone(row: Row, folder: Path) -> Observed:
    """As its user would."""
    trainer = _begin(row)
    before = within = footprint(trainer.model, trainer.optimizers)
    losses = []
    for i in range(row.iterations):
        losses.append(_iterate(row, trainer, i, folder))
        if i == 0:
            within = footprint(trainer.model, trainer.optimizers)
    return Observed(
        _bits(trainer, losses),
        _counted(),
        before=before,
        within=within,
        after=footprint(trainer.model, trainer.optimizers),
    )


def run_attached(row: Row, folder: Path, detach_after: int | None = None) -> Observed:
    """With an agent that looks at everything, taken off again at the end, or after so many iterations."""
    trainer = _begin(row)
    before = footprint(trainer.model, trainer.optimizers)
    agent = trainvitals.attach(
        trainer.model,
        list(trainer.optimizers),
        monitor=str(folder / "frames"),
        budget=None,
        quiet=True,
    )
    losses: list[torch.Tensor] = []
    within, touched = before, agent.touched()
    for i in range(row.iterations):
        if i == detach_after:
            agent.close()
        losses.append(_iterate(row, trainer, i, folder))
        agent.log(loss=losses[-1])
        if i == 0:
            within, touched = footprint(trainer.model, trainer.optimizers), agent.touched()
    counted = _counted()
    agent.close()
    return Observed(
        bits=_bits(trainer, losses),
        counters=counted,
        steps=_steps_of(folder / "frames"),
        coverage=agent.coverage(),
        touched=touched,
        before=before,
        within=within,
        after=footprint(trainer.model, trainer.optimizers),
    )


def check(row: Row, alone: Observed, attached: Observed) -> None:
    """What holds of every row."""
    assert attached.steps == list(range(1, row.steps + 1))
    assert attached.coverage["switched_off"] == attached.coverage["failures"] == {}
    assert attached.counters.get("stats") == alone.counters.get("stats")
    if row.compiles_step:
        for kind in ("graph_break", "frames", "recompile_limit"):
            assert _sum(attached, kind) <= _sum(alone, kind), kind
    else:
        assert attached.counters == alone.counters
    if row.graphs is not None:
        assert alone.counters.get("stats", {}).get("unique_graphs", 0) == row.graphs
    assert attached.different(alone) == []
    # FSDP2 adds hooks of its own at the first forward pass.
    own = changed(alone.before, alone.within)
    assert changed(attached.before, attached.within) - own <= set(attached.touched)
    assert changed(attached.before, attached.after) <= changed(alone.before, alone.after)


def _begin(row: Row) -> Trainer:
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(SEED)
    return row.build()


def _iterate(row: Row, trainer: Trainer, i: int, folder: Path) -> torch.Tensor:
    torch.manual_seed(SEED + i)
    loss = trainer.train(i).detach().clone()
    if trainer.save is not None and i == row.iterations // 2:
        trainer.save(folder / "checkpoint")
    return loss


def _counted() -> dict[str, dict[str, int]]:
    """Graphs, frames and breaks; not what a cache of compiled code, warm or cold, makes of them."""
    kept = ("stats", "frames", "graph_break", "unimplemented", "recompile_limit")
    return {name: dict(counters[name]) for name in kept if counters[name]}


def _sum(observed: Observed, kind: str) -> int:
    return sum(observed.counters.get(kind, {}).values())


def _steps_of(frames: Path) -> list[int]:
    decoded = [decode(path.read_bytes())[1] for path in sorted(frames.rglob("*.safetensors"))]
    tables = [tables["steps"] for tables in decoded if "steps" in tables]
    return sorted(int(step) for table in tables for step in table["step"])


def _bits(trainer: Trainer, losses: Sequence[torch.Tensor]) -> dict[str, bytes]:
    found = {"losses": torch.stack([loss.float() for loss in losses])}
    found |= {f"model.{name}": t for name, t in trainer.model.state_dict().items()}
    for number, optimizer in enumerate(trainer.optimizers):
        for position, state in enumerate(optimizer.state.values()):
            if isinstance(state, dict):
                named = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
                found |= {f"optimizer.{number}.{position}.{k}": v for k, v in named.items()}
    found["generator"] = torch.get_rng_state()
    return {name: _bytes(tensor) for name, tensor in found.items()}


def _bytes(tensor: torch.Tensor) -> bytes:
    local = getattr(tensor, "_local_tensor", tensor).detach().contiguous().reshape(-1)
    array: np.ndarray[Any, Any] = local.view(torch.uint8).numpy()
    return array.tobytes()
