"""
GET /metrics: the monitor and its runs, for Prometheus.
"""

from __future__ import annotations

import gzip

from fastapi import APIRouter, Request
from fastapi.responses import Response

from trainvitals_monitor.metrics import OPENMETRICS, TEXT, Scrape, wants_openmetrics
from trainvitals_monitor.routes.problems import problems

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus text, or OpenMetrics where the Accept header asks for it",
        },
        **problems(400, 401),
    },
)
def metrics(request: Request) -> Response:
    """All series; how many there can be is bounded (see docs/metrics.md). Compressed where that is accepted."""
    scrape: Scrape = request.app.state.scrape
    openmetrics = wants_openmetrics(request.headers.get("accept", ""))
    body = scrape.render(openmetrics=openmetrics)
    headers = {"Vary": "Accept, Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        # The fastest level: it takes a tenth of what is sent away for 3 ms, and a higher one little more.
        body = gzip.compress(body, compresslevel=1)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=OPENMETRICS if openmetrics else TEXT)
