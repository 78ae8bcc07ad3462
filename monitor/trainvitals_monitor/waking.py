"""
Who is told of what, and when: the rules that dashboards/alertmanager has for Prometheus, for those without it.

* a critical finding is told at once; a warning waits for a digest, of which a run sends one in DIGEST_S at most; info is
  told nobody;
* while a critical finding of a run is open its warnings wait, for they are mostly what follows from it;
* a finding is told once, whatever tensors join it, and again only when it gets worse, or comes back after it was over;
* what another open finding explains, and what somebody acknowledged or muted, is not told;
* a run that is not heard of any more without having said that it ends is one message, however many ranks it had.

Only the rules: nothing here sends, reads a clock or knows a monitor. notify.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainvitals_monitor.findings import Finding, Severity, Status

DIGEST_S = 600.0
"""At most one digest of warnings per run in this time; what comes back sooner than that is not told again."""
GATHER_S = 30.0
"""How long the first warning of a digest waits for those that come with it."""
VANISHED_S = 300.0
"""Heartbeats come every few seconds, with steps or without: after so long without one nobody sends them any more."""
MAX_LISTED = 8
"""Findings that one message spells out; the page has them all."""
_MAX_SUBJECTS = 3

Kind = Literal["critical", "warning", "vanished", "over"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """
    A run as it is now. `heard_at`: when a frame of it last came, in the caller's seconds; None: not since it started.
    `findings`: all that were ever opened. `telling`: those of them that may be told now.
    `muted`: nothing is to be told of the run, not even that it vanished.
    """

    run: str
    page: str
    step: int
    closed: bool
    heard_at: float | None
    findings: Sequence[Finding]
    telling: Sequence[Finding]
    muted: bool = False


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is to be sent. `told`: ids of findings, or "", which stands for the run's having vanished."""

    kind: Kind
    run: str
    title: str
    body: str
    told: tuple[str, ...]


@dataclass
class _Told:
    """What was said of a finding last."""

    rank: int
    at: float
    over: bool = False


@dataclass
class _Run:
    """A run, and what was said of it. `waiting_since`: when the first warning that waits now came."""

    told: dict[str, _Told] = field(default_factory=dict)
    vanished: bool = False
    heard_at: float | None = None
    last: RunState | None = None
    last_digest: float | None = None
    waiting_since: float | None = None


class WakeBook:
    """
    What was told of which run. One thread.

    `since`: when it began, in the caller's seconds. `tell_over`: also one line for what is over. `stored`: what
    `as_json` gave to an earlier one, so that a monitor's restart tells nothing twice.
    """

    def __init__(
        self, since: float, *, tell_over: bool = False, stored: Mapping[str, Any] | None = None
    ) -> None:
        self._since = since
        self._tell_over = tell_over
        self._runs: dict[str, _Run] = {}
        for name, known in (stored or {}).items():
            told = {one: _Told(int(rank), since) for one, rank in known["told"].items()}
            self._runs[name] = _Run(told=told, vanished=bool(known["vanished"]))

    def as_json(self, unsent: Iterable[Message] = ()) -> dict[str, Any]:
        """What to keep for a restart, but for what nobody has been sent yet."""
        pending = {(message.run, told) for message in unsent for told in message.told}
        return {
            name: {
                "told": {
                    one: told.rank
                    for one, told in run.told.items()
                    if not told.over and (name, one) not in pending
                },
                "vanished": run.vanished and (name, "") not in pending,
            }
            for name, run in self._runs.items()
        }

    def due(self, states: Sequence[RunState], now: float) -> list[Message]:
        """What is to be told now; it counts as told from here on."""
        messages: list[Message] = []
        there = {state.run for state in states}
        for state in states:
            if state.heard_at is None and state.run not in self._runs:
                continue  # read back from the store, and over for all that we know
            messages += self._of_run(self._runs.setdefault(state.run, _Run()), state, now)
        for name in self._runs.keys() - there:
            messages += self._of_absent(name, now)
        return messages

    def _of_absent(self, name: str, now: float) -> list[Message]:
        """Of a run that is no longer in memory all there is to be told is that it vanished; then it is forgotten."""
        run = self._runs[name]
        messages = [] if run.last is None else list(self._whether_there(run, run.last, now))
        known_to_go_on = run.last is not None and not run.last.closed and not run.vanished
        if not known_to_go_on and now - self._since > VANISHED_S:
            del self._runs[name]
        return messages

    def _of_run(self, run: _Run, state: RunState, now: float) -> Iterable[Message]:
        run.last = state
        run.heard_at = run.heard_at if state.heard_at is None else state.heard_at
        yield from self._whether_there(run, state, now)
        yield from self._what_is_over(run, state, now)
        fresh = [one for one in state.telling if _is_news(one, run.told.get(one.id), now)]
        critical = [one for one in fresh if one.severity is Severity.CRITICAL]
        if critical:
            yield _of_findings("critical", state, critical)
            _note(run, critical, now)
        warnings = [one for one in fresh if one.severity is Severity.WARNING]
        held_back = any(one.severity is Severity.CRITICAL for one in state.telling)
        if self._digest_is_due(run, bool(warnings) and not held_back, now):
            yield _of_findings("warning", state, warnings)
            _note(run, warnings, now)

    def _digest_is_due(self, run: _Run, any_waits: bool, now: float) -> bool:
        if not any_waits:
            run.waiting_since = None
            return False
        if run.waiting_since is None:
            run.waiting_since = now
        too_soon = run.last_digest is not None and now - run.last_digest < DIGEST_S
        if too_soon or now - run.waiting_since < GATHER_S:
            return False
        run.last_digest, run.waiting_since = now, None
        return True

    def _whether_there(self, run: _Run, state: RunState, now: float) -> Iterable[Message]:
        silent_s = now - (self._since if run.heard_at is None else run.heard_at)
        gone = not state.closed and silent_s > VANISHED_S
        if gone and not run.vanished and not state.muted:
            yield Message(
                kind="vanished",
                run=state.run,
                title=f"run {state.run} has vanished",
                body=f"Nothing was heard of run {state.run} for {silent_s / 60:.0f} minutes, after step {state.step}, and "
                f"it did not say that it ends: was it killed, does it hang, is the network down?\n{state.page}",
                told=("",),
            )
        if run.vanished and not gone and self._tell_over:
            yield _over(state, f"run {state.run} is heard of again")
        run.vanished = gone and (run.vanished or not state.muted)

    def _what_is_over(self, run: _Run, state: RunState, now: float) -> Iterable[Message]:
        resolved = [
            one
            for one in state.findings
            if one.status is Status.RESOLVED and one.id in run.told and not run.told[one.id].over
        ]
        for one in resolved:
            run.told[one.id] = _Told(one.severity.rank, now, over=True)
        if resolved and self._tell_over:
            names = ", ".join(dict.fromkeys(one.detector for one in resolved))
            yield _over(state, f"run {state.run}: {names} is over")


def _is_news(finding: Finding, told: _Told | None, now: float) -> bool:
    if told is None:
        return True
    came_back = told.over and now - told.at >= DIGEST_S
    return came_back or finding.severity.rank < told.rank


def _note(run: _Run, findings: Iterable[Finding], now: float) -> None:
    for one in findings:
        run.told[one.id] = _Told(one.severity.rank, now)


def _of_findings(
    kind: Literal["critical", "warning"], state: RunState, findings: Sequence[Finding]
) -> Message:
    names = list(dict.fromkeys(one.detector for one in findings))
    parts = [_spelled_out(one) for one in findings[:MAX_LISTED]]
    if len(findings) > MAX_LISTED:
        parts.append(f"and {len(findings) - MAX_LISTED} more")
    return Message(
        kind=kind,
        run=state.run,
        title=f"{kind}: run {state.run}: {', '.join(names[:MAX_LISTED])}",
        body="\n\n".join([*parts, state.page]),
        told=tuple(one.id for one in findings),
    )


def _spelled_out(finding: Finding) -> str:
    lines = [f"{finding.detector}, from step {finding.first_step} on: {finding.message}"]
    named = [one for one in finding.subjects if one]
    if named:
        more = len(named) - _MAX_SUBJECTS
        lines.append(", ".join(named[:_MAX_SUBJECTS]) + (f" and {more} more" if more > 0 else ""))
    lines.append(f"-> {finding.advice}")
    if finding.last_clean_checkpoint:
        lines.append(f"last clean checkpoint: {finding.last_clean_checkpoint}")
    return "\n".join(lines)


def _over(state: RunState, line: str) -> Message:
    return Message(kind="over", run=state.run, title=line, body=f"{line}\n{state.page}", told=())
