"""
GET /api/v1/runs and below: what is known of runs.

Each question takes one thread of the pool, and makes its answer's bytes there: every change of threads waits for the
interpreter's lock, some milliseconds each while frames come in.

A run's name may hold slashes: they stay as they are in the path, or are sent as %2F. Which names are allowed makes sure
that no name can be taken for another page (see ingest.check_run_name).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from trainvitals.lock import Lock
from trainvitals_monitor.findings import Severity, Status
from trainvitals_monitor.ingest import MAX_RUN_NAME
from trainvitals_monitor.models import (
    ComparedOut,
    FindingOut,
    Findings,
    Model,
    RunDetail,
    Runs,
    SeriesOut,
    Tensors,
    Worst,
)
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.queries import MAX_POINTS, Queries, SeriesAsked
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.routes.problems import problems

router = APIRouter(prefix="/api/v1", tags=["runs"])

RunName = Annotated[str, Path(description="the run's name", min_length=1, max_length=MAX_RUN_NAME)]
Step = Annotated[int, Query(ge=-1, le=1 << 53)]


async def _queries(request: Request) -> Queries:
    # A coroutine, for FastAPI would send a plain function to a thread of its own.
    monitor: Monitor = request.app.state.monitor
    return Queries(monitor)


Ask = Annotated[Queries, Depends(_queries)]


def _answer(said: Model) -> Response:
    """As FastAPI would answer with it, but for a second validation on a second thread."""
    return Response(said.model_dump_json(by_alias=True), media_type="application/json")


@router.get("/runs", summary="All runs", response_model=Runs, responses=problems(400, 401, 503))
def get_runs(ask: Ask) -> Response:
    """Runs that are in memory or in the store, last seen first."""
    return _answer(Runs(runs=ask.runs()))


@router.get(
    "/runs/{run:path}/findings",
    summary="A run's findings",
    response_model=Findings,
    responses=problems(400, 401, 404, 422, 503),
)
def get_findings(
    ask: Ask,
    run: RunName,
    status: Annotated[Status | None, Query(description="only these")] = None,
    severity: Annotated[Severity | None, Query(description="only these")] = None,
) -> Response:
    """Every finding that was ever opened, or those of one status or severity."""
    found = ask.findings(run, status, severity)
    return _answer(
        Findings(findings=[FindingOut(**one.as_json(), muted=ask.muted(one)) for one in found])
    )


@router.get(
    "/runs/{run:path}/tensors",
    summary="A run's tensors",
    response_model=Tensors,
    responses=problems(400, 401, 404, 422, 503),
)
def get_tensors(
    ask: Ask,
    run: RunName,
    match: Annotated[str, Query(description="glob over FQNs", max_length=1000)] = "*",
    offset: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """One page of the tensors of the latest attempt, with the last value of each statistic."""
    return _answer(ask.tensors(run, match, offset, limit))


@router.get(
    "/runs/{run:path}/series",
    summary="A series",
    response_model=SeriesOut,
    responses=problems(400, 401, 404, 422, 503),
)
def get_series(
    ask: Ask,
    run: RunName,
    tensor: Annotated[str, Query(description="canonical FQN", max_length=1000)] = "",
    stat: Annotated[
        str, Query(description="a statistic of facts, such as norm", max_length=100)
    ] = "norm",
    scalar: Annotated[
        str, Query(description="instead of a tensor: a logged scalar", max_length=1000)
    ] = "",
    attempt: Annotated[str, Query(description="the latest if empty", max_length=1000)] = "",
    first: Annotated[
        Step, Query(alias="from", description="first step, the attempt's own count")
    ] = -1,
    last: Annotated[Step, Query(alias="to", description="last step")] = 1 << 53,
    points: Annotated[
        int, Query(description="at most; a longer series is thinned", ge=1, le=MAX_POINTS)
    ] = 2000,
) -> Response:
    """One statistic of one tensor, or one logged scalar, at the steps where it was looked at."""
    if bool(tensor) == bool(scalar):
        raise Refusal("invalid-query", "give tensor= (and stat=), or scalar=")
    return _answer(
        ask.series(
            SeriesAsked(
                run=run,
                kind="tensor" if tensor else "scalar",
                name=tensor or scalar,
                stat=stat if tensor else "value",
                attempt=attempt,
                first=first,
                last=last,
                points=points,
            )
        )
    )


@router.get(
    "/runs/{run:path}/worst",
    summary="The largest values now",
    response_model=Worst,
    responses=problems(400, 401, 404, 422, 503),
)
def get_worst(
    ask: Ask,
    run: RunName,
    stat: Annotated[
        str, Query(description="a statistic of facts, such as norm", max_length=100)
    ] = "norm",
    count: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Response:
    """Tensors of the latest attempt with the largest last value of a statistic, NaN first."""
    return _answer(ask.worst(run, stat, count))


@router.get(
    "/runs/{run:path}/lock",
    summary="A run's lock",
    responses=problems(400, 401, 404, 422, 503),
)
def get_lock(ask: Ask, run: RunName) -> Lock:
    """The tensors of the latest attempt as they began, and which have moved: see `trainvitals contract write`."""
    return ask.lock(run)


@router.get(
    "/runs/{run:path}/comparison",
    summary="A run beside another one",
    responses=problems(400, 401, 404, 422, 503),
)
def get_comparison(
    ask: Ask,
    run: RunName,
    reference: Annotated[
        str, Query(description="the good run", min_length=1, max_length=MAX_RUN_NAME)
    ],
) -> ComparedOut:
    """Where the run parts from the other one, by what is stored of both: see `trainvitals compare`."""
    return ask.compared(run, reference)


@router.get(
    "/runs/{run:path}",
    summary="One run",
    response_model=RunDetail,
    responses=problems(400, 401, 404, 422, 503),
)
def get_run(ask: Ask, run: RunName) -> Response:
    """One run: where it is, its attempts, what was covered."""
    return _answer(ask.run(run))
