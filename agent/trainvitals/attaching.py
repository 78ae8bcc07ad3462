"""
`attach`: the public entry. What can't be meant is refused there, and nothing else ever leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.agent import Agent
from trainvitals.answers import OnFinding
from trainvitals.arguments import (
    check_contract,
    check_models,
    check_on_finding,
    check_optimizers,
    check_replicas,
    check_step,
)
from trainvitals.attached import ATTACHED
from trainvitals.attempt import read_world
from trainvitals.contract import Contract
from trainvitals.errors import BadSetting
from trainvitals.guard import Guard
from trainvitals.inert import InertAgent
from trainvitals.mesh import mesh_text
from trainvitals.record import Record
from trainvitals.settings import resolve


def attach(
    model: nn.Module | Iterable[nn.Module],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    run: str | None = None,
    monitor: str | None = None,
    step: int = 0,
    contract: Contract | str | PathLike[str] | None = None,
    on_finding: OnFinding = "log",
    mesh: Any = None,
    replicas: Callable[[torch.Tensor], Iterable[int]] | None = None,
    **settings: Any,
) -> Agent:
    """
    Watch a model's training from now on; call it once, before the first step, when the weights are loaded.

    Args:
        model: what is trained: one module or several (a GAN's), wrapped (DDP, FSDP2, torch.compile) or not.
        optimizer: what trains it, one or several. None: found at the first step by the parameters it holds.
        run: the run's name; the same name continues a run after a restart.
        monitor: `http://host:port` of a monitor, or a folder for frames that `trainvitals replay` reads.
            Default: TRAINVITALS_MONITOR, else the folder `trainvitals-frames`.
        step: optimizer steps already done. Left at 0, a second attach to the same run in the same process goes on
            counting where the first stopped.
        contract: what you declare of the state (frozen, tied, dtypes), or the file of it (docs/contract.md).
        on_finding: "log", "raise" (end the training: one rank, with a monitor), or a callable that gets each new
            finding as a dict, on the trainer's thread at the step after the monitor's answer.
        mesh: where this rank is: a DeviceMesh, or axis -> (coordinate, size). It is told, and decides nothing.
        replicas: of a plain tensor, the ranks that hold the very same; none: unknown. For trainers whose layout torch
            can't tell (DTensor and DDP say it by themselves).
        settings: see docs/settings.md; each also has an environment variable.

    Raises:
        BadSetting: (a ValueError) for arguments that can't be meant; nothing else ever reaches the trainer.
    """
    guard = Guard(Record(0), lambda: 0)
    guard.call("close", ATTACHED.clear_out)
    given = {**settings, "run": run, "monitor": monitor}
    layout = mesh, replicas
    make = partial(_make, guard, model, optimizer, step, contract, on_finding, layout, given)
    made = guard.call("attach", make)
    if isinstance(made, BadSetting):
        raise made
    return made if isinstance(made, Agent) else InertAgent(guard.off["attach"])


def _make(
    guard: Guard,
    model: Any,
    optimizer: Any,
    step: Any,
    contract: Any,
    on_finding: Any,
    layout: tuple[Any, Any],
    given: dict[str, Any],
) -> Agent | BadSetting:
    """An agent that has started, or what is wrong with the arguments."""
    try:
        resolved = resolve(given)
        models, optimizers = check_models(model), check_optimizers(optimizer)
        ATTACHED.make_way(models)
        for each in models:
            if ATTACHED.has(each):
                raise BadSetting(
                    f"attach(model={type(each).__name__}): an agent is attached to this model already; "
                    "use that one, or call its close() first"
                )
        checked = check_on_finding(on_finding, resolved.to_folder, read_world().world_size)
        declared = check_contract(contract, resolved.contract)
        agent = Agent(
            models,
            optimizers,
            resolved,
            check_step(step),
            declared,
            checked,
            mesh_text(layout[0]),
            check_replicas(layout[1]),
        )
    except BadSetting as error:
        return error
    try:
        agent.start(optimizers)
    except BaseException:
        guard.call("close", agent.close)
        raise
    return agent
