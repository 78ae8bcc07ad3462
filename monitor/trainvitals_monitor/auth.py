"""
Who may ask for what. One dependency of the whole application: a route that is added is closed unless listed as open.

Tokens are compared in constant time. The ingest token may send frames and read nothing; the read token reads and sends
nothing; the operator token reads, and mutes findings. A browser may give the read or the operator token as the password
of HTTP's basic authentication; it asks anew where the one that it has is not enough. Without tokens the monitor is on loopback, and then answers only to loopback's names: a web page whose name suddenly points to 127.0.0.1 (DNS
rebinding) would otherwise read along.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from enum import Enum
from urllib.parse import urlsplit

from fastapi import Request

from trainvitals_monitor.config import Config
from trainvitals_monitor.refusal import Refusal

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/static/style.css"})
OPERATOR_PATHS = ("/api/v1/mutes", "/mutes")
"""What is below changes what others see: anything but reading wants the operator's token."""
INGEST_PATHS = frozenset({"/api/v1/frames"})


class Scope(str, Enum):
    """What a token is good for."""

    INGEST = "ingest"
    READ = "read"
    OPERATOR = "operator"


class Guard:
    """The dependency: called with every request before its route is."""

    def __init__(self, config: Config) -> None:
        self._tokens = {
            Scope.INGEST: config.ingest_token,
            Scope.READ: config.read_token,
            Scope.OPERATOR: config.operator_token,
        }
        self._may_mute = config.may_mute
        self._hosts: frozenset[str] | None = None
        if config.loopback:
            public = urlsplit(config.public_url).hostname or ""
            self._hosts = frozenset(
                {"localhost", "127.0.0.1", "::1", config.host, public.lower()}
            ) - {""}

    async def __call__(self, request: Request) -> None:
        """Refusal unless the request may go on."""
        path = request.url.path
        if path in OPEN_PATHS:
            return
        scope = _scope(path, request.method)
        expected = self._tokens[scope]
        if scope is Scope.OPERATOR and not self._may_mute:
            raise Refusal("unauthorized", "start the monitor with --operator-token-file for that")
        if expected is None:
            self._check_host(request)
        elif not self._may(scope, _token_of(request.headers.get("authorization", ""))):
            raise Refusal(
                "unauthorized",
                f"send the monitor's {scope.value} token: Authorization: Bearer TOKEN",
            )

    def _may(self, scope: Scope, given: str) -> bool:
        scopes = (scope, Scope.OPERATOR) if scope is Scope.READ else (scope,)
        return any(_same(given, token) for one in scopes if (token := self._tokens[one]))

    def _check_host(self, request: Request) -> None:
        host = (request.url.hostname or "").lower()
        if self._hosts is not None and host not in self._hosts:
            raise Refusal(
                "wrong-host",
                f"this monitor answers to {', '.join(sorted(self._hosts))}, not to {host[:100]!r}; "
                f"give it --public-url or a read token",
            )


def _scope(path: str, method: str) -> Scope:
    if path in INGEST_PATHS:
        return Scope.INGEST
    if path.startswith(OPERATOR_PATHS) and method not in ("GET", "HEAD"):
        return Scope.OPERATOR
    return Scope.READ


def _token_of(header: str) -> str:
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
