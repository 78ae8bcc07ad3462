"""
`serve`: the application under uvicorn, from a bound socket to a clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from fastapi import FastAPI

from trainvitals_monitor.app import create_app
from trainvitals_monitor.config import Config

_BACKLOG = 512
_GRACE_S = 10


class AddressUnusable(ValueError):
    """The address cannot be listened on; one line that says why."""


def serve(config: Config) -> int:
    """
    Serve until Ctrl-C, SIGTERM, or `idle_exit_s` without requests; what was accepted is in the store when it returns.

    Returns the exit status, 0. Prints the address once it really listens. Raises ValueError or OSError, one line each, when it cannot start.
    """
    config.check()
    with contextlib.closing(_bound(config)) as listener:
        address = _address(config, listener)
        app = create_app(_with_address(config, address))
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=75,
            ws="none",
            lifespan="on",
        )
        server = _Server(settings)
        # What was imported stays for good: no garbage collection need look through it again.
        gc.collect()
        gc.freeze()
        with _signals(server):
            asyncio.run(_run(server, listener, app, config, address))
        if server.failed:
            raise OSError("the monitor did not start; see above")
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server with the signals left to us: its own raise them again after the shutdown."""

    failed = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(
    server: _Server, listener: socket.socket, app: FastAPI, config: Config, address: str
) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        print(f"trainvitals monitor: {address} (store: {config.store})", flush=True)  # noqa: T201
    while config.idle_exit_s is not None and not serving.done():
        await asyncio.wait([serving], timeout=min(0.5, config.idle_exit_s / 4))
        if app.state.activity.idle_s() > config.idle_exit_s:
            server.should_exit = True
    await serving
    server.failed = not server.started


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the server to end; the second one does not wait for open requests."""

    def ask(_number: int, _frame: object) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bound(config: Config) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol said: asyncio sets TCP_NODELAY only then, and without it answers wait 40 ms.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressUnusable(
            f"cannot listen on {config.host}: {error.strerror or error}"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressUnusable(
            f"cannot listen on {config.host}:{config.port}: {error.strerror or error}"
        ) from error
    return listener


def _address(config: Config, listener: socket.socket) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _with_address(config: Config, address: str) -> Config:
    return config if config.public_url else replace(config, public_url=address)
