"""
The agent: reads a trainer's state around its optimizer steps, and sends what it read.

This file puts the parts together: the clock says when, the budget what, the probes read, the record keeps until the
sender's thread sends. `attach` is the public entry; everything that the trainer calls goes through the guard.
"""

from __future__ import annotations

import atexit
import secrets
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import trainvitals
from trainvitals.answers import Answers, OnFinding
from trainvitals.arguments import (
    check_models,
    check_on_finding,
    check_optimizers,
    check_step,
    is_replicated,
)
from trainvitals.attempt import attempt_key, last_step, read_world, remember_step, run_name
from trainvitals.budget import Budget
from trainvitals.clock import Clock
from trainvitals.contract import Contract
from trainvitals.errors import BadSetting
from trainvitals.frame import Header
from trainvitals.guard import Guard
from trainvitals.ownership import Ownership
from trainvitals.probes import PROBES
from trainvitals.probes.checkpoint import Checkpoints
from trainvitals.probes.loss import Log
from trainvitals.probes.probe import Probe
from trainvitals.progress import Progress
from trainvitals.record import Record
from trainvitals.roles import WATCHED, role_of
from trainvitals.rounds import Rounds
from trainvitals.sender import Sender
from trainvitals.settings import Settings, resolve
from trainvitals.slots import SlotTable
from trainvitals.speech import attach_line, say, summary_line
from trainvitals.swaps import SWAPS

# Model -> the agent that is attached to it, so that attaching twice is noticed.
_ATTACHED: weakref.WeakKeyDictionary[nn.Module, Agent] = weakref.WeakKeyDictionary()


def attached_agents() -> list[Agent]:
    """The agents that are attached in this process now."""
    return list({id(agent): agent for agent in _ATTACHED.values()}.values())


def attach(
    model: nn.Module | Iterable[nn.Module],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    run: str | None = None,
    monitor: str | None = None,
    step: int = 0,
    contract: Contract | None = None,
    on_finding: OnFinding = "log",
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
        contract: what you declare of the state (frozen, tied, dtypes).
        on_finding: "log", "raise" (end the training: one rank, with a monitor), or a callable that gets each new
            finding as a dict, on the trainer's thread at the step after the monitor's answer.
        settings: see docs/settings.md; each also has an environment variable.

    Raises:
        BadSetting: (a ValueError) for arguments that can't be meant; nothing else ever reaches the trainer.
    """
    resolved = resolve({**settings, "run": run, "monitor": monitor})
    models, optimizers = check_models(model), check_optimizers(optimizer)
    for each in models:
        if each in _ATTACHED:
            raise BadSetting(
                f"attach(model={type(each).__name__}): an agent is attached to this model already; "
                "use that one, or call its close() first"
            )
    if contract is not None and not isinstance(contract, Contract):
        raise BadSetting(f"contract={contract!r}: must be a trainvitals.Contract")
    world_size = read_world().world_size
    checked = check_on_finding(on_finding, resolved.to_folder, world_size)
    agent = Agent(models, optimizers, resolved, check_step(step), contract or Contract(), checked)
    agent.start()
    return agent


class Agent:
    """
    An attached agent; made by `attach`. Use it as a context manager, or leave it: it closes itself at exit.

    Its methods are for the trainer's thread. None of them raises, but for FindingRaised where it was asked for.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        settings: Settings,
        step: int,
        contract: Contract,
        on_finding: OnFinding,
    ) -> None:
        self.run = run_name(settings)
        self.settings = replace(settings, run=self.run)
        self.world = read_world()
        self.attempt = attempt_key(self.settings, self.run)
        base = step or last_step(self.run, settings.monitor) or 0
        self._progress = Progress.at(base)
        self._models = list(models)
        self._given = list(optimizers)
        self._contract = contract
        self._record = Record(settings.queue_bytes)
        self._guard = Guard(self._record, self._steps_done)
        self._answers = Answers(on_finding, self._guard, settings.quiet)
        self._slots = SlotTable(
            models, world_size=self.world.world_size, replicated=is_replicated(models)
        )
        self._ownership = Ownership(self._slots, self._given)
        self._log = Log()
        self._checkpoints = Checkpoints(
            self._slots, self._record, self._steps_done, self._guard.call
        )
        self._probes: list[Probe] = [*(probe() for probe in PROBES), self._checkpoints]
        self._budget = Budget(settings.budget, watch=settings.watch)
        self._rounds = Rounds(
            self._slots, self._record, self._guard, self._budget, self._probes, self._progress
        )
        self._clock = Clock(
            self._ownership.owns,
            self._rounds.before_step,
            self._after_round,
            self._given,
            guarded=self._guard.call,
            attempted=self._guard.attempt,
        )
        self._sender = Sender(self.settings, self._record, self._header, self._answers.take)
        self._started_at = time.time()
        self._process = secrets.token_hex(8)
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Put up the hooks and say what was found."""
        for model in self._models:
            _ATTACHED[model] = self
        atexit.register(self.close)
        SWAPS.hold()
        self._guard.call("tensor table", self._rounds.send_tensor_table)
        for optimizer in self._given:
            self._guard.call("optimizers", self._ownership.know, optimizer)
        self._guard.call("checkpoint", self._checkpoints.start)
        self._clock.start()
        self._guard.call("sender", self._sender.start)
        if not self.settings.quiet and self.world.rank == 0:
            say(self._attach_line())

    def close(self) -> None:
        """Send what waits (at most `close_timeout_s`), remove every hook and patch, say what was covered. Idempotent."""
        if self._closed:
            return
        self._guard.call("clock", self._clock.finish_round)
        self._closed = True
        self._clock.stop()
        self._slots.let_go()
        SWAPS.release()
        for probe in self._probes:
            self._guard.call(f"{probe.name} (close)", probe.close)
        self._guard.call("loss", self._log.flush, self._record)
        self._progress.complete()
        self._progress.phase = "closed"
        self._guard.call("sender", self._sender.close, self.settings.close_timeout_s)
        for model in self._models:
            _ATTACHED.pop(model, None)
        atexit.unregister(self.close)
        self._guard.call("findings", self._answers.tell, False)
        if not self.settings.quiet and self.world.rank == 0:
            say(summary_line(self.coverage()))

    def flush(self) -> bool:
        """Send all that is known now; True when the monitor has taken it (or the folder holds it)."""
        self._guard.call("clock", self._clock.finish_round)
        self._guard.call("loss", self._log.flush, self._record)
        self._progress.complete()
        sent = self._guard.call("sender", self._sender.flush, self.settings.close_timeout_s)
        self._guard.call("findings", self._answers.tell)
        return bool(sent)

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- what the trainer tells ---------------------------------------------------------------------------------

    def log(self, *, step: int | None = None, loss: Any = None, **scalars: Any) -> None:
        """
        Tell the loss and other numbers (floats or 0-d tensors, read later without a device sync; None is passed over).

        `step` is the trainer's own number of the step that was just made; findings then speak in it.
        """
        if self._closed:
            return
        made = self._step_just_made()
        if step is not None:
            self._guard.attempt("log(step=)", self._progress.tell, step, made)
        for name, value in {"loss": loss, **scalars}.items():
            # Each by itself: a text under one name must not end the loss.
            if value is not None:
                self._guard.call(f"log({name}=)", self._log.log, self._record, made, {name: value})

    def step(self) -> None:
        """One step of a trainer that updates its parameters without a torch optimizer; call it after the update."""
        if self._closed:
            return
        if self._clock.has_seen_optimizers:
            self._guard.call("step()", _refuse_step)
            return
        self._guard.call("clock", self._rounds.before_step, [])
        self._guard.call("clock", self._after_round, [])

    # -- what the trainer may ask -------------------------------------------------------------------------------

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The run's open findings as the monitor last said; empty when frames go to a folder."""
        return list(self._answers.findings)

    def coverage(self) -> dict[str, Any]:
        """What was looked at and what was never seen; counts, and ages in steps."""
        report = self._rounds.coverage(self._checkpoints.coverage())
        return {
            **report,
            "switched_off": dict(self._guard.off),
            "failures": dict(self._guard.failures),
            "plan": self._budget.plan(),
        }

    def plan(self) -> Any:
        """How often each kind of look is taken under the budget."""
        return self._budget.plan()

    def touched(self) -> list[str]:
        """Every hook and patch that is in place; `close()` removes them all."""
        return [*self._clock.touched(), *SWAPS.touched(), *self._checkpoints.touched()]

    # -- inside -------------------------------------------------------------------------------------------------

    def _steps_done(self) -> int:
        return self._progress.step

    def _step_just_made(self) -> int:
        """What the trainer means by its last step: the one still being made where another optimizer may yet step."""
        return self._progress.step + self._clock.is_in_round

    def _after_round(self, optimizers: Sequence[Optimizer]) -> None:
        self._rounds.after_round(optimizers)
        remember_step(self.run, self.settings.monitor, self._progress.step)
        self._guard.call("findings", self._answers.tell)

    def _header(self, seq: int) -> Header:
        """On the sender's thread, which adds what waits in the record."""
        return Header(
            agent_version=trainvitals.__version__,
            run=self.run,
            attempt=self.attempt,
            process=self._process,
            rank=self.world.rank,
            world_size=self.world.world_size,
            seq=seq,
            started_at=self._started_at,
            sent_at=time.time(),
            first_step=self._progress.base,
            base_step=self._progress.base,
            complete_through=self._progress.complete_through,
            step_offset=self._progress.offset,
            phase=self._progress.phase,
            contract=self._contract.as_json(),
            about={"torch": torch.__version__},
        )

    def _attach_line(self) -> str:
        watched = sum(role_of(self._slots.fqn(i)) in WATCHED for i in range(len(self._slots)))
        return attach_line(
            run=self.run,
            models=[type(model).__name__ for model in self._models],
            num_tensors=len(self._slots),
            num_watched=watched,
            optimizers=[type(optimizer).__name__ for optimizer in self._given],
            target=self.settings.monitor,
            to_folder=self.settings.to_folder,
            budget=self.settings.budget,
        )


def _refuse_step() -> None:
    raise RuntimeError(
        "agent.step() is for loops without a torch optimizer; here the optimizer's own step is the clock"
    )
