"""
/api/v1/mutes: acknowledging a finding, and muting patterns of findings. Changes want the operator's token.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field

from trainvitals_monitor.findings import Finding
from trainvitals_monitor.models import Model, MuteOut, MutesOut
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.mutes import Mute
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.routes.problems import problems

router = APIRouter(prefix="/api/v1/mutes", tags=["mutes"])

_Pattern = Annotated[str, Field(min_length=1, max_length=512)]


class MuteIn(Model):
    """What to mute: one finding of a run, by its id, or all that match the patterns."""

    run: _Pattern = Field(description="the run's name; a pattern where no finding is given")
    finding: str = Field("", max_length=200, description="id of the finding to acknowledge")
    detector: _Pattern = Field("*", description="pattern of detectors' names")
    tensor: _Pattern = Field("*", description="pattern that every tensor of the finding matches")
    reason: _Pattern = Field(description="who and why, for those who see it")
    hours: float | None = Field(None, gt=0, le=24 * 366, description="for how long; null: for good")


def _json_only(request: Request) -> None:
    # What keeps a foreign web page from posting here: browsers ask first for such a type.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal("wrong-type", f"Content-Type {kind[:60]!r}: send application/json")


@router.get("", summary="What is muted", responses=problems(400, 401))
def mutes(request: Request) -> MutesOut:
    """Acknowledged findings and muted patterns that hold now."""
    return _out(request.app.state.monitor)


@router.post(
    "",
    summary="Acknowledge or mute",
    dependencies=[Depends(_json_only)],
    responses=problems(400, 401, 404, 415, 422),
)
def mute(request: Request, wanted: MuteIn) -> MuteOut:
    """
    What is muted is neither alerted nor notified; it stays on the page. An acknowledged finding that gets worse is told
    again.
    """
    return _one(mute_as_wanted(request.app.state.monitor, wanted))


@router.delete("/{mute}", summary="Take a mute back", responses=problems(400, 401, 404, 422))
def unmute(request: Request, mute: Annotated[str, Path(max_length=64)]) -> MutesOut:
    """What it was about is told again, while it is open."""
    monitor: Monitor = request.app.state.monitor
    monitor.mutes.remove(mute)
    return _out(monitor)


def mute_as_wanted(monitor: Monitor, wanted: MuteIn) -> Mute:
    """What was asked for; Refusal for a finding that there is not."""
    return monitor.mutes.add(
        run=wanted.run,
        detector=wanted.detector,
        tensor=wanted.tensor,
        reason=wanted.reason,
        hours=wanted.hours,
        of=_finding(monitor, wanted) if wanted.finding else None,
    )


def _finding(monitor: Monitor, wanted: MuteIn) -> Finding:
    live = monitor.roster.get(wanted.run)
    with live.lock:
        found = [one for one in live.engine.findings if one.id == wanted.finding]
    if not found:
        raise Refusal("not-found", f"run {wanted.run!r} has no finding {wanted.finding!r}")
    return found[0]


def _out(monitor: Monitor) -> MutesOut:
    return MutesOut(mutes=[_one(one) for one in monitor.mutes.all()])


def _one(made: Mute) -> MuteOut:
    told = asdict(made)
    del told["severity_rank"]
    return MuteOut(**told)
