"""
How refusals are answered and documented: one model, one place.
"""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from trainvitals_monitor.auth import INGEST_PATHS
from trainvitals_monitor.models import Problem
from trainvitals_monitor.refusal import Refusal

_DESCRIPTIONS = {
    400: "The body is no frame, or the Host header is not one that this monitor answers to.",
    401: "No token, or a wrong one.",
    404: "No such run, attempt, tensor or scalar.",
    409: "The frame contradicts what its run, attempt or rank said before.",
    413: "The body is too large.",
    415: "Content-Type or Content-Encoding is not one that is read here.",
    422: "Understood, but not allowed: an unknown schema, a value out of bounds, a limit.",
    429: "Too many frames wait already; Retry-After says when to come back.",
    500: "A fault of the monitor's own; its log has the details.",
    503: "The store can't be written, or the monitor is starting or ending; Retry-After says when to come back.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may be refused in these ways."""
    return {status: {"model": Problem, "description": _DESCRIPTIONS[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Answer every kind of refusal with a Problem."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)


async def _refused(request: Request, error: Exception) -> Response:
    error = cast(Refusal, error)
    if request.url.path in INGEST_PATHS:
        request.app.state.monitor.count_refused(error.reason)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="trainvitals", charset="UTF-8"'
    if error.status == 413:
        # The rest of the body is not read: the connection can't be used for another request.
        headers["Connection"] = "close"
    return _answer(error.status, error.reason, error.detail, headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    error = cast(RequestValidationError, error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _answer(422, "invalid-query", f"{place}: {first['msg']}")


async def _http(_request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    names = {404: "not-found", 405: "method-not-allowed"}
    name = names.get(error.status_code, "malformed")
    return _answer(error.status_code, name, str(error.detail), dict(error.headers or {}))


async def _fault(_request: Request, _error: Exception) -> Response:
    return _answer(500, "internal-error", "a fault of the monitor's own; its log has the details")


def _answer(
    status: int, error: str, detail: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    content = Problem(error=error, detail=detail).model_dump()
    return JSONResponse(content, status_code=status, headers=headers)
