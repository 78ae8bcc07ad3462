"""
/healthz and /readyz: for whoever keeps the monitor running.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from trainvitals_monitor.models import Health
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.routes.problems import problems

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz(request: Request) -> Health:
    """200 as long as requests are answered at all."""
    monitor: Monitor = request.app.state.monitor
    return Health(status="ok", version=monitor.version)


@router.get("/readyz", summary="Does it take frames?", responses=problems(503))
async def readyz(request: Request) -> Health:
    """503 while stored runs are read back after a start, when the store can't be written, and when ending."""
    monitor: Monitor = request.app.state.monitor
    trouble = monitor.trouble()
    if trouble:
        raise Refusal("unavailable", trouble, retry_after_s=1)
    return Health(status="ok", version=monitor.version)
