"""
The pages: jinja2 templates with autoescape, one style sheet, no script, nothing from another host.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainvitals_monitor.mesh import shape_text
from trainvitals_monitor.mutes import Mute

_HERE = Path(__file__).parent
_WIDTH, _HEIGHT, _MARGIN = 600.0, 120.0, 6.0
_MAX_POINTS = 600


def run_path(run: str) -> str:
    """The path of a run's page."""
    return f"/runs/{quote(run)}"


def number(value: Any) -> str:
    """A number as people read it; "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def moment(seconds: float) -> str:
    """Unix seconds as date and time, UTC."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a sender's clock may say anything
        return "-"


def muted(mute: Mute) -> str:
    """What a mute says, in one line."""
    given = [
        f"{name} {text}"
        for name, text in (("detector", mute.detector), ("tensors", mute.tensor))
        if text != "*"
    ]
    what = "Acknowledged" if mute.finding else f"Muted ({', '.join(given) or 'everything'})"
    until = "" if mute.until is None else f", until {moment(mute.until)} UTC"
    return f"{what}: {mute.reason}{until}"


def plain(value: Any) -> str:
    """A value of the coverage report in words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(plain(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value)


def curve(steps: list[int], values: list[Any]) -> dict[str, Any] | None:
    """The points of a line over the steps, as an SVG polyline wants them; None for fewer than two finite values."""
    pairs = [
        (s, v)
        for s, v in zip(steps, values, strict=True)
        if isinstance(v, (int, float)) and math.isfinite(v)
    ]
    if len(pairs) < 2:
        return None
    every = max(1, len(pairs) // _MAX_POINTS)
    shown = [*pairs[:-1:every], pairs[-1]]
    low, high = min(v for _, v in shown), max(v for _, v in shown)
    first, last = shown[0][0], shown[-1][0]
    wide, tall = max(last - first, 1), (high - low) or 1.0
    points = " ".join(
        f"{_WIDTH * (step - first) / wide:.1f},{_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / tall:.1f}"
        for step, value in shown
    )
    return {"points": points, "first": first, "last": last, "low": low, "high": high}


def style_sheet() -> bytes:
    """The style sheet's bytes."""
    return (_HERE / "static" / "style.css").read_bytes()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for own in (run_path, number, moment, muted, plain, shape_text):
        environment.filters[own.__name__] = own
    return environment


_TEMPLATES = _environment()


def render(template: str, **values: Any) -> str:
    """A page's HTML."""
    return _TEMPLATES.get_template(template).render(values)
