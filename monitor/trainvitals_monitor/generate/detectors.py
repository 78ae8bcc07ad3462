"""
docs/detectors.md, from the detectors' docstrings and declarations.
"""

from __future__ import annotations

import inspect
import re

from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.detectors.detector import Detector
from trainvitals_monitor.first_cause import EXPLAINS
from trainvitals_monitor.generate.markdown import GENERATED, table

SECTIONS = ("Detects", "Why it matters", "Known causes", "Fix", "Misses")
"""What every detector's docstring has, in this order."""

_INTRODUCTION = """
# Detectors

Each is named after the fault that it finds. **critical**: the state is wrong now and will not heal by itself.
**warning**: probably wrong, look today. **info**: worth knowing; it never affects an exit status or an alert. A
detector that can't tell says nothing. Thresholds can be changed, for a run, for some of its tensors or for all runs, and
a detector can be switched off: [contract.md](contract.md). A finding that another one explains is shown under it.

"""


def detectors_page() -> str:
    """The page's text."""
    rows = [
        (f"[{each.name}](#{each.name})", each.severity.value, each.family, each.summary)
        for each in DETECTORS
    ]
    index = table(("detector", "severity", "family", "finds"), rows)
    pages = "\n".join(_page(each) for each in DETECTORS)
    return (
        GENERATED.format(source="trainvitals_monitor/detectors/")
        + _INTRODUCTION
        + index
        + "\n"
        + pages
    )


def sections_of(detector: type[Detector]) -> dict[str, str]:
    """The sections of a detector's docstring by name; the part before the first is under ""."""
    pattern = re.compile(rf"^({'|'.join(SECTIONS)}):[ ]*", re.MULTILINE)
    first, *rest = pattern.split(inspect.getdoc(detector) or "")
    return {"": first.strip()} | dict(
        zip(rest[::2], (inspect.cleandoc(text) for text in rest[1::2]), strict=True)
    )


def _page(detector: type[Detector]) -> str:
    found = sections_of(detector)
    parts = [
        f"## {detector.name}",
        f"*{detector.severity.value}, {detector.family}.* {detector.summary}",
    ]
    if found[""]:
        parts.append(found[""])
    parts += [f"**{name}.** {_paragraph(found[name])}" for name in SECTIONS if name in found]
    if detector.thresholds:
        rows = [(f"`{t.name}`", f"{t.default:g}", t.unit, t.reason) for t in detector.thresholds]
        parts.append(table(("threshold", "default", "unit", "why"), rows).rstrip())
    reads = ", ".join(f"`{name}`" for name in detector.reads)
    healing = (
        "stays open until the attempt ends"
        if detector.resolve_after is None
        else f"resolved after {detector.resolve_after} steps without it"
    )
    effects = EXPLAINS.get(detector.name)
    leads = f" May explain {', '.join(f'`{name}`' for name in effects.on)}." if effects else ""
    parts.append(f"Reads {reads}; {healing}.{leads}")
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str) -> str:
    """The section's text; a list in it stays one."""
    lines = text.splitlines()
    joined = [
        f"\n{line}" if line.lstrip().startswith(("- ", "* ")) else line
        for line in (each.rstrip() for each in lines)
    ]
    return "\n".join(joined)
