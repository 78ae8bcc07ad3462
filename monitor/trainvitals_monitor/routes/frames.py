"""
POST /api/v1/frames: where agents push what they measured.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from trainvitals.link import BEHIND
from trainvitals_monitor.models import Accepted
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.routes.problems import problems

router = APIRouter()

_CONTENT_TYPES = frozenset({"application/octet-stream", "application/vnd.safetensors"})


@router.post(
    "/api/v1/frames",
    tags=["ingest"],
    summary="Push a frame",
    response_model=Accepted,
    responses=problems(400, 401, 409, 413, 415, 422, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "one frame, a safetensors blob as docs/wire.md has it",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def post_frame(request: Request) -> Response:
    """
    2xx once the frame is safe in the store, also when it was there before (`duplicate`).

    The answer carries the run's open findings and the address of its page. Frames are to be sent uncompressed.
    """
    monitor: Monitor = request.app.state.monitor
    blob = await _read_body(request, monitor.config.limits.body_bytes)
    reply = await asyncio.wrap_future(monitor.submit(blob, _num_behind(request)))
    return Response(reply, media_type="application/json")


def _num_behind(request: Request) -> int | None:
    """How many frames wait behind this one on a trainer's disk; None if it does not come from there."""
    told = request.headers.get(BEHIND, "")
    return int(told) if told.isascii() and told.isdecimal() and len(told) < 10 else None


async def _read_body(request: Request, limit: int) -> bytes:
    """The body; Refusal before more than `limit` bytes are held, whether its length was announced or not."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _CONTENT_TYPES:
        # Also what keeps a foreign web page from posting here: browsers ask first for such a type.
        raise Refusal("wrong-type", f"Content-Type {kind[:60]!r}: send application/octet-stream")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(
            "wrong-encoding", f"Content-Encoding {encoding[:60]!r}: send frames uncompressed"
        )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise Refusal("too-large", f"body of {announced} bytes; at most {limit} are read")
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refusal(
                    "too-large", f"body of more than {limit} bytes, which is all that is read"
                )
            parts.append(part)
    except ClientDisconnect as error:
        raise Refusal("malformed", "the body ended before its announced length") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)
