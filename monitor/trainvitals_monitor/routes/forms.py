"""
POST /mutes and below: the forms of a run's page, for acknowledging and muting without a command line.

A browser sends what it knows of passwords along with a form, whatever page the form stands on. So every form of ours holds
a word that only our pages show, anew with each start of the monitor, and a browser that says that the form was another
site's is believed.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from trainvitals_monitor.monitor import Monitor
from trainvitals_monitor.refusal import Refusal
from trainvitals_monitor.routes.mutes import MuteIn, mute_as_wanted
from trainvitals_monitor.web import run_path

router = APIRouter(include_in_schema=False)

WORD = secrets.token_urlsafe(24)
"""What makes a form ours: none that another site shows can hold it."""
_MAX_BYTES = 8192
_KIND = "application/x-www-form-urlencoded"


@router.post("/mutes")
async def mute(request: Request) -> Response:
    """Acknowledge one finding, or mute all of its detector or of its run; back to the run's page."""
    fields = await _fields(request)
    run, finding = fields.get("run", ""), fields.get("finding", "")
    what = {
        "finding": {"finding": finding},
        "detector": {"detector": fields.get("detector", "")},
        "run": {},
    }.get(fields.get("what", ""))
    # Without its id a finding would be all of the run's.
    if what is None or what.get("finding") == "":
        raise Refusal("invalid-query", "what: finding (with its id), detector or run")
    wanted = {
        # A run's name may hold what is a pattern's: it is meant as it stands.
        "run": run if "finding" in what else _literal(run),
        "reason": fields.get("reason", "").strip(),
        "hours": fields.get("hours") or None,
        **what,
    }
    try:
        meant = MuteIn.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refusal("invalid-query", f"{first['loc'][0]}: {first['msg']}") from error
    mute_as_wanted(request.app.state.monitor, meant)
    return _back(run, finding)


@router.post("/mutes/{mute}/remove")
async def unmute(request: Request, mute: Annotated[str, Path(max_length=64)]) -> Response:
    """Take one back; back to the run's page."""
    fields = await _fields(request)
    monitor: Monitor = request.app.state.monitor
    monitor.mutes.remove(mute)
    return _back(fields.get("run", ""), fields.get("finding", ""))


async def _fields(request: Request) -> dict[str, str]:
    """What the form says; Refusal for one that is not ours."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _KIND:
        raise Refusal("wrong-type", f"Content-Type {kind[:60]!r}: this takes {_KIND}")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BYTES:
            raise Refusal("too-large", f"a form of more than {_MAX_BYTES} bytes")
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    site = request.headers.get("sec-fetch-site", "same-origin")
    ours = hmac.compare_digest(fields.get("word", "").encode(), WORD.encode())
    if site != "same-origin" or not ours:
        raise Refusal(
            "foreign-form",
            "this form is not from a page of this monitor as it runs now: load the page again",
        )
    return fields


def _literal(name: str) -> str:
    """A pattern that only this name matches."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _back(run: str, finding: str) -> Response:
    return RedirectResponse(f"{run_path(run)}#{finding}" if run else "/", status_code=303)
