"""
A reader of a running monitor: its HTTP API, for the command line. Standard library only; no answer is trusted blindly.
"""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

FRAME_TYPE = "application/octet-stream"


class MonitorError(Exception):
    """The monitor can't be reached or does not answer as asked; the text is one line for a person."""


class Refused(MonitorError):
    """The monitor answered, with an error status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """One monitor, by its address. Each call is one request; nothing is kept open."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise MonitorError(f"{url!r} is no address of a monitor: give http://host:port")
        self._token = token
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """The JSON at the path; MonitorError if there is none."""
        body, _ = self._open(path)
        try:
            return json.loads(body)
        except ValueError as error:
            raise MonitorError(
                f"{self.url} answered {path} with something else than JSON: is a monitor listening there?"
            ) from error

    def runs(self) -> list[dict[str, Any]]:
        """All runs that the monitor knows."""
        runs: list[dict[str, Any]] = self.get("/api/v1/runs")["runs"]
        return runs

    def run(self, name: str) -> dict[str, Any]:
        """One run."""
        run: dict[str, Any] = self.get(f"/api/v1/runs/{quote(name)}")
        return run

    def findings(self, name: str) -> list[dict[str, Any]]:
        """Every finding of the run, also the resolved ones."""
        findings: list[dict[str, Any]] = self.get(f"/api/v1/runs/{quote(name)}/findings")[
            "findings"
        ]
        return findings

    def lock(self, name: str) -> dict[str, Any]:
        """The lock of the run's latest attempt."""
        lock: dict[str, Any] = self.get(f"/api/v1/runs/{quote(name)}/lock")
        return lock

    def comparison(self, name: str, reference: str) -> dict[str, Any]:
        """One run beside another one."""
        query = f"comparison?reference={quote(reference, safe='')}"
        found: dict[str, Any] = self.get(f"/api/v1/runs/{quote(name)}/{query}")
        return found

    def mutes(self) -> list[dict[str, Any]]:
        """Acknowledged findings and muted patterns that hold now."""
        mutes: list[dict[str, Any]] = self.get("/api/v1/mutes")["mutes"]
        return mutes

    def mute(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Acknowledge or mute, as `POST /api/v1/mutes` has it; what was made."""
        body, _ = self._open("/api/v1/mutes", json.dumps(wanted).encode(), kind="application/json")
        made: dict[str, Any] = json.loads(body)
        return made

    def unmute(self, mute: str) -> None:
        """Take one back."""
        self._open(f"/api/v1/mutes/{quote(mute, safe='')}", method="DELETE")

    def probe_ingest(self) -> None:
        """Post an empty frame, which is refused; MonitorError if it is refused for its token, or not answered."""
        try:
            self._open("/api/v1/frames", body=b"")
        except Refused as refusal:
            if refusal.status == 401:
                raise

    def is_ready(self) -> bool:
        """Whether the monitor takes frames now."""
        try:
            self._open("/readyz")
        except MonitorError:
            return False
        return True

    def clock_ahead_s(self) -> float | None:
        """How far the monitor's clock is ahead of ours, to about a second; None if its answer has no date."""
        _, headers = self._open("/healthz")
        date = headers.get("Date")
        return None if date is None else parsedate_to_datetime(date).timestamp() - time.time()

    def _open(
        self, path: str, body: bytes | None = None, *, kind: str = FRAME_TYPE, method: str | None = None
    ) -> tuple[bytes, HTTPMessage]:  # fmt: skip
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = kind
        # Only http:// and https:// get here (see __init__).
        request = Request(self.url + path, data=body, headers=headers, method=method)  # noqa: S310
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                return answer.read(), answer.headers
        except HTTPError as error:
            with error:
                text = f"{self.url} answered {path} with {error.code}{_detail(error.read())}"
                raise Refused(error.code, text) from None
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise MonitorError(f"no monitor answers at {self.url} ({reason})") from None


def _detail(body: bytes) -> str:
    """What the monitor said about a refusal."""
    try:
        return f": {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return ""
