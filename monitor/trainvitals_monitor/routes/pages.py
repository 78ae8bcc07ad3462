"""
The pages that people look at: the list of runs, and one run.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from trainvitals.facts import BACKWARD_SCALAR
from trainvitals_monitor import web
from trainvitals_monitor.folding import folded
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.queries import Queries, SeriesAsked
from trainvitals_monitor.routes.forms import WORD
from trainvitals_monitor.routes.query import RunName

router = APIRouter(include_in_schema=False)

_LOSS_STEPS = 100_000


@router.get("/", response_class=HTMLResponse)
def page_of_runs(request: Request) -> HTMLResponse:
    """All runs."""
    monitor: Monitor = request.app.state.monitor
    address = monitor.config.public_url or str(request.base_url).rstrip("/")
    return _page(monitor, "runs.html", runs=Queries(monitor).runs(), address=address)


@router.get("/runs/{run:path}", response_class=HTMLResponse)
def page_of_run(request: Request, run: RunName) -> HTMLResponse:
    """One run: its findings, what was covered, its loss."""
    monitor: Monitor = request.app.state.monitor
    ask = Queries(monitor)
    detail = ask.run(run)
    # A trainer's own loss, or what comes nearest to it.
    shown = next((name for name in ("loss", BACKWARD_SCALAR) if name in detail.scalars), None)
    curve = None
    if shown is not None:
        first = max(-1, ask.last_step(run) - _LOSS_STEPS)
        series = ask.series(
            SeriesAsked(
                run=run,
                kind="scalar",
                name=shown,
                stat="value",
                attempt="",
                first=first,
                last=1 << 53,
                points=_LOSS_STEPS,
            )
        )
        offset = series.step_offset or 0
        curve = web.curve([step + offset for step in series.steps], list(series.values))
    findings = ask.findings(run, None, None)
    muted = {one.id: mute for one in findings if (mute := monitor.mutes.of(one))}
    patterns = [one for one in monitor.mutes.all() if one.is_pattern_of(run)]
    groups = [
        (findings[top], [findings[number] for number in rest])
        for top, rest in folded([(one.id, one.caused_by) for one in findings])
    ]
    return _page(
        monitor,
        "run.html",
        run=detail,
        groups=groups,
        curve=curve,
        shown=shown,
        muted=muted,
        patterns=patterns,
        silenced=monitor.mutes.silences(run),
        may_mute=monitor.config.may_mute,
        word=WORD,
    )


@router.get("/static/style.css")
def style_sheet() -> Response:
    """The style sheet."""
    return Response(web.style_sheet(), media_type="text/css")


def _page(monitor: Monitor, template: str, **values: object) -> HTMLResponse:
    return HTMLResponse(web.render(template, version=monitor.version, **values))
