"""
The agent: reads a trainer's state around its optimizer steps, and sends what it read.

This file puts the parts together: the clock says when, the budget what, the probes read, the record keeps until the
sender's thread sends. `attach` is the public entry; everything that the trainer calls goes through the guard.
"""

from __future__ import annotations

import atexit
import logging
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

import trainvitals
from trainvitals.arguments import (
    check_models,
    check_on_finding,
    check_optimizers,
    check_step,
    is_replicated,
)
from trainvitals.attempt import attempt_key, last_step, read_world, remember_step, run_name
from trainvitals.budget import Budget
from trainvitals.clock import Clock, plain_optimizers
from trainvitals.contract import Contract
from trainvitals.coverage import Coverage
from trainvitals.errors import BadSetting, FindingRaised
from trainvitals.frame import Header, Phase
from trainvitals.guard import Guard
from trainvitals.probes import PROBES
from trainvitals.probes.checkpoint import Checkpoints
from trainvitals.probes.loss import Log
from trainvitals.probes.probe import Choice, Look, Probe
from trainvitals.record import Record
from trainvitals.roles import WATCHED, role_of
from trainvitals.sender import Sender
from trainvitals.settings import Settings, resolve
from trainvitals.slots import SlotTable
from trainvitals.speech import attach_line, finding_line, say, summary_line

OnFinding = Callable[[dict[str, Any]], None] | str

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
        self._base_step = step or last_step(self.run, settings.monitor) or 0
        self._step = self._base_step
        self._models = list(models)
        self._given = list(optimizers)
        self._contract = contract
        self._on_finding = on_finding
        self._record = Record(settings.queue_bytes)
        self._guard = Guard(self._record, lambda: self._step)
        self._slots = SlotTable(
            models, world_size=self.world.world_size, replicated=is_replicated(models)
        )
        self._log = Log()
        self._checkpoints = Checkpoints(
            self._slots, self._record, lambda: self._step, self._guard.call
        )
        self._probes: list[Probe] = [*(probe() for probe in PROBES), self._checkpoints]
        self._budget = Budget(settings.budget, watch=settings.watch)
        self._coverage = Coverage()
        self._clock = Clock(
            self._owns, self._before_step, self._after_round, self._given, guarded=self._guard.call
        )
        self._sender = Sender(self.settings, self._record, self._header, self._on_reply)
        self._choice: Choice | None = None
        self._complete_through = self._base_step
        self._step_offset: int | None = None
        self._phase: Phase = "starting"
        self._started_at = time.time()
        self._process = secrets.token_hex(8)
        self._ended_step_at = time.perf_counter()
        self._agent_seconds = 0.0
        self._findings: list[dict[str, Any]] = []
        self._told: set[str] = set()
        self._page = ""
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Put up the hooks and say what was found."""
        for model in self._models:
            _ATTACHED[model] = self
        atexit.register(self.close)
        self._guard.call("tensor table", self._send_tensor_table)
        for optimizer in self._given:
            self._guard.call("optimizers", self._know_optimizer, optimizer)
        self._guard.call("checkpoint", self._checkpoints.start)
        self._clock.start()
        self._sender.start()
        if not self.settings.quiet and self.world.rank == 0:
            say(self._attach_line())

    def close(self) -> None:
        """Send what waits (at most `close_timeout_s`), remove every hook and patch, say what was covered. Idempotent."""
        if self._closed:
            return
        self._guard.call("clock", self._clock.finish_round)
        self._closed = True
        self._complete_through = self._step
        self._phase = "closed"
        self._clock.stop()
        for probe in self._probes:
            self._guard.call(f"{probe.name} (close)", probe.close)
        self._guard.call("loss", self._log.flush, self._record)
        self._guard.call("sender", self._sender.close, self.settings.close_timeout_s)
        for model in self._models:
            _ATTACHED.pop(model, None)
        atexit.unregister(self.close)
        self._tell_findings(may_raise=False)
        if not self.settings.quiet and self.world.rank == 0:
            say(summary_line(self.coverage()))

    def flush(self) -> bool:
        """Send all that is known now; True when the monitor has taken it (or the folder holds it)."""
        self._guard.call("clock", self._clock.finish_round)
        self._complete_through = self._step
        self._guard.call("loss", self._log.flush, self._record)
        sent = self._guard.call("sender", self._sender.flush, self.settings.close_timeout_s)
        self._tell_findings()
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
        Tell the loss and other numbers (floats or 0-d tensors, read later without a device sync).

        `step` is the trainer's own number of the step that was just made; findings then speak in it.
        """
        if self._closed:
            return
        if step is not None:
            self._step_offset = int(step) - self._step
        values = scalars if loss is None else {"loss": loss, **scalars}
        self._guard.call("loss", self._log.log, self._record, self._step, values)

    def step(self) -> None:
        """One step of a trainer that updates its parameters without a torch optimizer; call it after the update."""
        if self._closed:
            return
        if self._clock.has_seen_optimizers:
            self._guard.call("step()", _refuse_step)
            return
        self._before_step([])
        self._after_round([])

    # -- what the trainer may ask -------------------------------------------------------------------------------

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The run's open findings as the monitor last said; empty when frames go to a folder."""
        return list(self._findings)

    def coverage(self) -> dict[str, Any]:
        """What was looked at and what was never seen; counts, and ages in steps."""
        small = np.array([self._slots.plan(i).is_whole for i in range(len(self._slots))], np.bool_)
        report = self._coverage.report(
            small=small, step=self._step, checkpoints=self._checkpoints.coverage()
        )
        return {**report, "switched_off": dict(self._guard.off), "plan": self._budget.plan()}

    def plan(self) -> Any:
        """How often each kind of look is taken under the budget."""
        return self._budget.plan()

    def touched(self) -> list[str]:
        """Every hook and patch that is in place; `close()` removes them all."""
        return [*self._clock.touched(), *self._checkpoints.touched()]

    # -- around a step ------------------------------------------------------------------------------------------

    def _owns(self, optimizer: Optimizer) -> bool:
        return any(
            self._slots.index_of(parameter) is not None
            for each in plain_optimizers(optimizer)
            for group in each.param_groups
            for parameter in group["params"]
        )

    def _before_step(self, optimizers: Sequence[Optimizer]) -> None:
        started = time.perf_counter()
        first = self._step == self._base_step and self._coverage.steps == 0
        if self._choice is None:
            self._complete_through = self._step
            if first:
                self._guard.call("tensor table", self._rebaseline)
            self._choice = self._guard.call("budget", self._budget.choose, self._step, self._slots)
        look = self._look(self._step + 1, optimizers, first)
        for probe in self._probes:
            self._timed(probe, probe.before_step, look)
        self._agent_seconds += time.perf_counter() - started

    def _after_round(self, optimizers: Sequence[Optimizer]) -> None:
        started = time.perf_counter()
        self._phase = "training"
        first = self._coverage.steps == 0
        self._step += 1
        remember_step(self.run, self.settings.monitor, self._step)
        look = self._look(self._step, optimizers, first)
        for probe in self._probes:
            self._timed(probe, probe.after_step, look)
        self._coverage.looked(look.choice, self._step, len(self._slots))
        self._choice = None
        self._end_step(started)
        self._tell_findings()

    def _look(self, step: int, optimizers: Sequence[Optimizer], first: bool) -> Look:
        return Look(
            step=step,
            slots=self._slots,
            record=self._record,
            choice=self._choice or Choice(),
            optimizers=optimizers,
            first=first,
        )

    def _timed(self, probe: Probe, moment: Callable[[Look], None], look: Look) -> None:
        started = time.perf_counter()
        with torch.no_grad():
            self._guard.call(probe.name, moment, look)
        if probe.kind:
            looked = len(getattr(look.choice, probe.kind))
            self._budget.spent(probe.kind, looked, time.perf_counter() - started)

    def _end_step(self, started: float) -> None:
        now = time.perf_counter()
        self._agent_seconds += now - started
        seconds = now - self._ended_step_at
        self._record.add(
            "steps", step=[self._step], time=[time.time()], seconds=[seconds], agent_seconds=[self._agent_seconds]
        )  # fmt: skip
        self._budget.step_took(seconds, self._agent_seconds)
        self._ended_step_at, self._agent_seconds = now, 0.0

    # -- frames and answers -------------------------------------------------------------------------------------

    def _send_tensor_table(self) -> None:
        for index in range(len(self._slots)):
            self._record.tensor(self._slots.info(index))

    def _know_optimizer(self, optimizer: Optimizer) -> None:
        """Given at attach, so what it holds is known before it steps (a GAN's generator may step late)."""
        for plain in plain_optimizers(optimizer):
            self._slots.holding(plain)

    def _rebaseline(self) -> None:
        """What happened between attach and the first step (to_empty, a cast, fully_shard) is legal: start from it."""
        self._slots.rebaseline()
        self._send_tensor_table()

    def _header(self, seq: int) -> Header:
        """On the sender's thread. What waits in the record is added by the sender itself."""
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
            first_step=self._base_step,
            complete_through=self._complete_through,
            step_offset=self._step_offset,
            phase=self._phase,
            contract=self._contract.as_json(),
            about={"torch": torch.__version__, "base_step": str(self._base_step)},
        )

    def _on_reply(self, reply: Mapping[str, Any]) -> None:
        """On the sender's thread: only keep what was said; the trainer's thread tells it."""
        self._page = str(reply.get("page", ""))
        self._findings = [dict(finding) for finding in reply.get("findings", [])]

    def _tell_findings(self, may_raise: bool = True) -> None:
        for finding in self._findings:
            if finding["id"] in self._told:
                continue
            self._told.add(finding["id"])
            if callable(self._on_finding):
                self._guard.call("on_finding", self._on_finding, finding)
            elif not self.settings.quiet:
                level = logging.INFO if finding["severity"] == "info" else logging.WARNING
                say(finding_line(finding, self._page), level=level)
            if self._on_finding == "raise" and may_raise and finding["severity"] != "info":
                raise FindingRaised(finding)

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
