"""
The FastAPI application: routes, guard, refusals, security headers; and the monitor's thread, started and ended with it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainvitals_monitor.auth import Guard
from trainvitals_monitor.config import Config
from trainvitals_monitor.courtesy import Courtesy
from trainvitals_monitor.metrics import Scrape
from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.routes import ROUTERS
from trainvitals_monitor.routes.problems import install, problems

# No script anywhere, no third party, nothing embedded: what a page may do is show itself, and send its forms here.
_POLICY = (
    b"default-src 'none'; style-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)  # fmt: skip


def create_app(config: Config | None = None, monitor: Monitor | None = None) -> FastAPI:
    """
    The application; its monitor opens the store at once and judges from start-up to shutdown.

    Raises ValueError (one line) when the configuration cannot be meant or the store cannot be used.
    """
    config = config or Config()
    config.check()
    own = monitor or Monitor(config)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        own.start()
        try:
            yield
        finally:
            own.close()

    app = FastAPI(
        title="trainvitals monitor",
        version=own.version,
        description="Takes frames from training runs, and says what is silently wrong with them.",
        dependencies=[Depends(Guard(config))],
        responses=problems(400, 401, 500),
        lifespan=lifespan,
        # Both pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.monitor = own
    app.state.scrape = Scrape(own)
    app.state.activity = Activity()
    for router in ROUTERS:
        app.include_router(router)
    install(app)
    app.add_middleware(_Envelope, activity=app.state.activity, courtesy=own.courtesy)
    return app


class Activity:
    """When the last request came; `serve` ends an idle monitor by it."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def idle_s(self) -> float:
        """Seconds without a request."""
        return time.monotonic() - self.last


class _Envelope:
    """Around every request: note that it came, let the worker wait for questions, put the security headers on its answer."""

    def __init__(self, app: ASGIApp, activity: Activity, courtesy: Courtesy) -> None:
        self._app = app
        self._activity = activity
        self._courtesy = courtesy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._activity.last = time.monotonic()
        with ExitStack() as answering:
            if scope["method"] == "GET":
                answering.enter_context(self._courtesy.asking())

            async def send_with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    # The answer is there: how fast its reader takes it is not the worker's to wait for.
                    answering.close()
                    _add_headers(message)
                await send(message)

            await self._app(scope, receive, send_with_headers)


def _add_headers(message: MutableMapping[str, Any]) -> None:
    message["headers"] = [*message.get("headers", ()), *_HEADERS]
