"""
The agent: reads a trainer's state around its optimizer steps, and sends what it read.

This file puts the parts together: the clock says when, the budget what, the probes read, the record keeps until the
sender's thread sends. Made by `attach` (attaching.py); everything that the trainer calls goes through the guard.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.announcing import Announcer
from trainvitals.answers import Answers, OnFinding
from trainvitals.attached import ATTACHED, Attachment
from trainvitals.attempt import attempt_key, last_step, read_world, remember_progress, run_name
from trainvitals.attempts import Attempts
from trainvitals.budget import Budget
from trainvitals.clock import Clock
from trainvitals.contract import Contract
from trainvitals.coverage import no_coverage
from trainvitals.guard import Guard
from trainvitals.letterhead import Letterhead
from trainvitals.limits import limits_of_models, limits_of_tensors
from trainvitals.ownership import Ownership
from trainvitals.plan import Plan
from trainvitals.probes import PROBES
from trainvitals.probes.checkpoint import Checkpoints
from trainvitals.probes.loss import Log
from trainvitals.probes.probe import Probe
from trainvitals.progress import Progress
from trainvitals.record import Record
from trainvitals.rhythm import share_of
from trainvitals.rounds import Rounds
from trainvitals.sender import Sender
from trainvitals.settings import Settings
from trainvitals.slots import SlotTable
from trainvitals.swaps import SWAPS


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
        mesh: str = "",
        replicas: Callable[[torch.Tensor], Iterable[int]] | None = None,
    ) -> None:
        self.run = run_name(settings)
        self.settings = replace(settings, run=self.run)
        self.world = read_world()
        self.attempt = attempt_key(self.settings, self.run)
        base = step or last_step(self.run, settings.monitor) or 0
        self._progress = Progress.at(base)
        self._announcer = Announcer(self.settings, self.world, models)
        self._limits_at_attach = limits_of_models(models)
        self._record = Record(settings.queue_bytes)
        self._guard = Guard(self._record, self._steps_done)
        self._answers = Answers(on_finding, self._guard, settings.quiet)
        asked = replicas and partial(self._guard.attempt, "replicas", replicas)
        self._slots = SlotTable(models, world_size=self.world.world_size, replicas=asked)
        self._ownership = Ownership(self._slots, optimizers)
        self._log = Log()
        self._checkpoints = Checkpoints(self._slots, self._record, self._steps_done)
        self._attempts = Attempts(
            self._record, self._steps_done, self._ownership.owns, lambda: self._clock.begun
        )
        self._probes: list[Probe] = [
            *(probe() for probe in PROBES),
            self._checkpoints,
            self._attempts,
        ]
        for probe in self._probes:
            probe.guarded = self._guard.call
        self._budget = Budget(settings.budget, watch=settings.watch)
        self._rounds = Rounds(
            self._slots, self._record, self._guard, self._budget, self._probes, self._progress
        )
        self._clock = Clock(
            self._ownership.owns,
            self._rounds.before_step,
            self._after_round,
            optimizers,
            stretch=self._rounds.stretch,
            settle=self._rounds.settle,
            is_news=lambda: self._answers.is_news,
            tell=self._tell_findings,
            guard=self._guard,
        )
        self._letterhead = Letterhead(
            self.settings,
            self.attempt,
            self.world,
            mesh,
            contract,
            self._progress,
            self._budget.plan,
        )
        self._sender = Sender(
            self.settings,
            self._record,
            self._letterhead.header,
            self._answers.take,
            self._on_poll,
            share_of(self.attempt, self.world.rank),
        )
        self._guard.meter.own_threads = lambda: self._sender.cpu_seconds
        self._attachment = Attachment(self._slots, self.close, self._become_a_copy)
        self._closing = threading.RLock()
        self._closed = self._is_leaving = False
        self._report: dict[str, Any] | None = None
        self._undo: dict[str, Callable[[], None]] = {}

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, optimizers: Sequence[Optimizer]) -> None:
        """Put up the hooks and say what was found."""
        SWAPS.hold()
        ATTACHED.add(self._attachment)
        atexit.register(self.close)
        self._guard.call("tensor table", self._rounds.send_tensor_table)
        for optimizer in optimizers:
            self._guard.call("optimizers", self._ownership.know, optimizer)
        for probe in self._probes:
            self._guard.call(probe.name, probe.attached, self._slots)
        self._guard.call("checkpoint", self._checkpoints.start)
        self._clock.start()
        self._guard.call("sender", self._sender.start)
        self._announcer.attached(self._slots, optimizers, self._limits_at_attach)

    def close(self) -> None:
        """
        Send what waits (at most `close_timeout_s`), remove every hook and patch, say what was covered. Idempotent.

        A closed agent keeps nothing of the model. One whose models nobody holds any more closes itself.
        """
        self._close(self._clock.stop)

    def _close(self, end_clock: Callable[[], None]) -> None:
        with self._closing:
            if self._closed:
                return
            self._guard.call("clock", self._clock.finish_round)
            self._closed = True
            end_clock()
            self._slots.let_go()
            SWAPS.release()
            for probe in self._probes:
                self._guard.call(f"{probe.name} (close)", probe.close)
            while self._undo:
                self._guard.call(*self._undo.popitem())
            self._guard.call("loss", self._log.flush, self._record)
            self._rounds.complete()
            self._progress.phase = "closed"
            self._guard.call("sender", self._sender.close, self.settings.close_timeout_s)
            ATTACHED.discard(self._attachment)
            atexit.unregister(self.close)
            self._guard.call("findings", self._answers.tell, False)
            self._report = self.coverage()
            self._slots.drop()
            self._announcer.closed(self._report)

    def _become_a_copy(self) -> None:
        """In a forked child, where it is silent: whoever closed it in the parent does not do so here."""
        self._closing = threading.RLock()
        atexit.unregister(self.close)

    def _on_poll(self) -> None:
        """On the sender's thread, which can't wait for itself, nor remove hooks that a trainer may be in."""
        if not self._is_leaving and not self._closed and self._slots.is_abandoned():
            self._is_leaving = True
            threading.Thread(
                target=self._guard.call,
                args=("close", self._leave),
                name="trainvitals-close",
                daemon=True,
            ).start()

    def _leave(self) -> None:
        self._close(self._clock.silence)
        ATTACHED.leave(self._clock.stop)

    def flush(self) -> bool:
        """Send all that is known now; True when the monitor has taken it (or the folder holds it)."""
        self._guard.call("clock", self._clock.finish_round)
        self._guard.call("loss", self._log.flush, self._record)
        self._rounds.complete()
        sent = self._guard.call("sender", self._sender.flush, self.settings.close_timeout_s)
        self._guard.meter.taken()  # the trainer waits because it wants to
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
            # Steps that a scaler has skipped since are steps of the trainer's.
            ours = made + self._attempts.skipped_in_a_row
            self._guard.attempt("log(step=)", self._progress.tell, step, ours)
        # Each by itself: a text under one name must not end the loss.
        if loss is not None:
            self._guard.call("log(loss=)", self._log.log, self._record, made, "loss", loss)
        for name, value in scalars.items():
            if value is not None:
                self._guard.call(f"log({name}=)", self._log.log, self._record, made, name, value)

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
        if self._report is not None:
            return dict(self._report)
        looks = self._guard.call("coverage", self._rounds.coverage, self._checkpoints.coverage())
        return {
            **(looks or no_coverage()),
            "limits": self._guard.call("limits", self._limits) or list(self._limits_at_attach),
            "switched_off": dict(self._guard.off),
            "failures": dict(self._guard.failures),
            "plan": self._budget.plan().as_json(),
        }

    def plan(self) -> Plan:
        """How often each kind of tensor is looked at under the budget, in steps and seconds; `print` it."""
        return self._budget.plan()

    def touched(self) -> list[str]:
        """Every hook and patch that is in place; `close()` removes them all."""
        by_probes = [name for probe in self._probes for name in probe.touched()]
        return [
            *self._clock.touched(),
            *SWAPS.touched(),
            *by_probes,
            *self._sender.touched(),
            *self._undo,
        ]

    def at_close(self, touched: str, undo: Callable[[], None], /) -> None:
        """Name something of the trainer's that was touched for this agent, and how `close()` gives it back."""
        self._undo[touched] = undo

    # -- inside -------------------------------------------------------------------------------------------------

    def _limits(self) -> list[str]:
        """What can't be known of this training, and why."""
        of_probes = [text for probe in self._probes for text in probe.limits()]
        return [*self._limits_at_attach, *limits_of_tensors(self._slots), *of_probes]

    def _steps_done(self) -> int:
        return self._progress.step

    def _step_just_made(self) -> int:
        """What the trainer means by its last step: the one still being made where another optimizer may yet step."""
        return self._progress.step + self._clock.is_in_round

    def _after_round(self, optimizers: Sequence[Optimizer]) -> None:
        self._rounds.after_round(optimizers)
        remember_progress(self.run, self.settings.monitor, self._progress)
        self._tell_findings()

    def _tell_findings(self) -> None:
        # Where nobody trains any more, nobody is there to be raised at.
        self._guard.call("findings", self._answers.tell, not self._is_leaving)


def _refuse_step() -> None:
    raise RuntimeError(
        "agent.step() is for loops without a torch optimizer; here the optimizer's own step is the clock"
    )
