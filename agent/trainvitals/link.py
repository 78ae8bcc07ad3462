"""
The way a frame goes: over HTTP to a monitor, or into a folder.

Both answer alike. **accepted**: it has arrived. **refused**: this frame will never be taken; the next one may.
**away**: the way is shut for now (nobody listens, a time-out, 429, 502-504, a wrong token, a wrong address); the frame
is as good as before and has to wait.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from trainvitals.errors import BadSetting
from trainvitals.settings import Settings
from trainvitals.spool import write_whole

FRAMES_PATH = "/api/v1/frames"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
BEHIND = "Trainvitals-Behind"
"""Header of a frame that waited on disk: how many more of its process wait there."""
_MAX_REPLY_BYTES = 4 << 20

# The frame is fine, the way is not: who may send (401, 403, 407), where to (3xx, 404, 405), not now (408, 429, 5xx).
_WRONG_WAY = (401, 403, 404, 405, 407)
_NOT_NOW = (408, 425, 429, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """What became of a frame. `text` is for the log; `wait_s` is what the monitor asked for (Retry-After)."""

    kind: Literal["accepted", "refused", "away"]
    text: str = ""
    status: int = 0
    reply: dict[str, Any] = field(default_factory=dict)
    wait_s: float | None = None


class MonitorLink:
    """
    One keep-alive connection to the monitor.

    Raises BadSetting at once for a token or certificate file that cannot be used. Cost: 0.1 ms of CPU a frame.
    """

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.monitor)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BadSetting(f"monitor={settings.monitor!r}: {error}") from error
        if not self._host:
            raise BadSetting(f"monitor={settings.monitor!r}: no host; give http://host:port")
        self._path = parts.path.rstrip("/") + FRAMES_PATH
        self._token_file = settings.token_file
        self._token = _read_token(self._token_file)
        self._tls = _tls(settings.ca_file) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def send(self, blob: bytes, name: str, timeout: float, num_behind: int | None = None) -> Answer:
        """
        Post a frame; takes about `timeout` seconds at most, and raises nothing that a network can cause.

        `num_behind`: of a frame that comes from the disk, how many wait there still.
        """
        reused = self._connection is not None
        try:
            return self._exchange(blob, timeout, num_behind)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.close()
            if not reused:
                return Answer("away", _words(error))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Answer("away", _words(error))
        # A server closes connections that were idle for some seconds: that is no sign of its absence.
        return self.send(blob, name, timeout, num_behind)

    def close(self) -> None:
        """Hang up; the next frame connects anew."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, blob: bytes, timeout: float, num_behind: int | None) -> Answer:
        connection = self._connected(timeout)
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if num_behind is not None:
            headers[BEHIND] = str(num_behind)
        try:
            connection.request("POST", self._path, body=blob, headers=headers)
        except (BrokenPipeError, ConnectionResetError):
            # A refusal (413, 401) may come before the whole body was read: hear it rather than try for ever.
            response = _early_response(connection)
        else:
            response = connection.getresponse()
        body = response.read(_MAX_REPLY_BYTES)
        if response.will_close or not response.isclosed():
            self.close()
        return self._answer(response, body)

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        if self._connection is None:
            connect_timeout = min(timeout, CONNECT_TIMEOUT_S)
            if self._tls is not None:
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=connect_timeout, context=self._tls
                )
            else:
                self._connection = http.client.HTTPConnection(
                    self._host, self._port, timeout=connect_timeout
                )
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sock.settimeout(timeout)
        return self._connection

    def _answer(self, response: http.client.HTTPResponse, body: bytes) -> Answer:
        status = response.status
        reply = _json_object(body)
        if 200 <= status < 300:
            if reply is None:
                return Answer(
                    "away", f"answered {status} without a JSON object: is it a monitor?", status
                )
            return Answer("accepted", status=status, reply=reply)
        text = f"answered {status} {response.reason}: {_reason(reply, body)}"
        if status == 401:
            self._token = _read_token(self._token_file, self._token)
        if status in _WRONG_WAY or status in _NOT_NOW or status < 400:
            return Answer("away", text, status, wait_s=_retry_after(response))
        return Answer("refused", text, status)


class FolderLink:
    """Frames as files under a folder, `<run>/<attempt>/rank0000-00000001.safetensors`, for `trainvitals replay`."""

    def __init__(self, settings: Settings) -> None:
        self.folder = Path(settings.monitor).expanduser().absolute()

    def send(
        self,
        blob: bytes,
        name: str,
        timeout: float,  # noqa: ARG002 - as MonitorLink's
        num_behind: int | None = None,  # noqa: ARG002 - as MonitorLink's
    ) -> Answer:
        """Write a frame; a file that is there already is another attempt's and stays."""
        path = self.folder / name
        if path.exists():
            return Answer(
                "refused", f"{path} is there already; another launch used this attempt key", 409
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, blob)
        except OSError as error:
            return Answer("away", _words(error))
        return Answer("accepted")

    def close(self) -> None:
        """Nothing to let go of."""


def _early_response(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection.sock, method="POST")
    response.begin()
    return response


def _read_token(token_file: str, fallback: str | None = None) -> str:
    """The token, read again after a 401: it may have been renewed. Raises BadSetting at attach (no fallback yet)."""
    if not token_file:
        return ""
    try:
        token = Path(token_file).expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if fallback is not None:
            return fallback
        raise BadSetting(f"token_file={token_file!r}: cannot be read ({_words(error)})") from error
    if not token.isprintable() or " " in token:
        raise BadSetting(f"token_file={token_file!r}: must hold one word and nothing else")
    return token


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise BadSetting(f"ca_file={ca_file!r}: no certificates in it ({_words(error)})") from error


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _reason(reply: dict[str, Any] | None, body: bytes) -> str:
    """The monitor's own sentence, on one line."""
    reply = reply or {}
    text = (
        reply.get("detail")
        or reply.get("reason")
        or reply.get("error")
        or body[:300].decode(errors="replace")
    )
    return " ".join(str(text).split())[:300] or "no reason given"


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds from Retry-After, which is a number or a date; at most an hour."""
    value = response.getheader("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=timezone.utc)
        seconds = (until - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), 3600.0)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
