"""
How the command line shows findings, coverage and runs to a person. Programs ask for --json instead.

Names that come from a trainer are shown as text, never as markup, and without control characters: a run's name must
not be able to write to somebody's terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainvitals_monitor.folding import folded
from trainvitals_monitor.mesh import shape_text

_STYLE = {"critical": "bold red", "warning": "yellow", "info": "cyan", "resolved": "dim"}
_WIDTH_WITHOUT_TERMINAL = 110
_SHOWN_SUBJECTS = 3
_EXERCISED = ("steps", "saves", "loads", "resumes", "losses", "probes switched off")


def console(stream: TextIO | None = None) -> Console:
    """Where to print: in colours on a terminal only, and as wide as it is; into a file or pipe as COLUMNS says."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or _WIDTH_WITHOUT_TERMINAL)
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def plain(text: object) -> str:
    """The text without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def findings_table(
    findings: Sequence[Mapping[str, Any]], *, with_run: bool = False, with_id: bool = False
) -> Table:
    """One row a finding: how bad, what, which steps and tensors, what happened and what to do; below it what follows."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("finding", no_wrap=True)
    table.add_column("steps", no_wrap=True)
    table.add_column("what happened, and what to do", overflow="fold")
    for top, rest in folded([(one["id"], one.get("caused_by", "")) for one in findings]):
        finding, following = findings[top], [findings[number] for number in rest]
        table.add_row(
            _name(finding, with_run),
            _steps(finding),
            _story(finding, len(following), with_id),
            end_section=not following,
        )
        for one in following:
            table.add_row(
                _follower(one), _steps(one), _happened(one), end_section=one is following[-1]
            )
    return table


def _name(finding: Mapping[str, Any], with_run: bool) -> Text:
    style = _STYLE.get("resolved" if finding["status"] == "resolved" else finding["severity"], "")
    lines = [Text(plain(finding["detector"]), style=style), Text(finding["severity"], style=style)]
    if finding["status"] == "resolved":
        lines.append(Text("(resolved)", style="dim"))
    if with_run:
        lines.append(Text(plain(finding["run"]), style="dim"))
    return Text("\n").join(lines)


def _steps(finding: Mapping[str, Any]) -> Text:
    first, last = finding["first_step"], finding["last_step"]
    return Text(str(first) if last <= first else f"{first}-{last}")


def _follower(finding: Mapping[str, Any]) -> Text:
    style = _STYLE.get("resolved" if finding["status"] == "resolved" else finding["severity"], "")
    return Text(f"+ {plain(finding['detector'])}", style=style)


def _happened(finding: Mapping[str, Any]) -> Text:
    """What happened, of a finding whose cause says what to do."""
    return Text(plain(finding["message"]), style="dim")


def _story(finding: Mapping[str, Any], num_following: int, with_id: bool) -> Text:
    parts = [
        Text(plain(finding["message"])),
        Text(f"-> {plain(finding['advice'])}", style="italic"),
    ]
    subjects = list(finding["subjects"])
    if subjects:
        more = len(subjects) - _SHOWN_SUBJECTS
        shown = ", ".join(plain(name) for name in subjects[:_SHOWN_SUBJECTS])
        parts.append(Text(shown + (f" and {more} more" if more > 0 else ""), style="dim"))
    if finding["severity"] != "info":
        clean = finding.get("last_clean_checkpoint") or "none known"
        parts.append(Text(f"last clean checkpoint: {plain(clean)}"))
    if finding.get("muted"):
        parts.append(Text(f"muted: {plain(finding['muted'])}", style="dim"))
    if with_id:
        parts.append(Text(f"id: {plain(finding['id'])}", style="dim"))
    if num_following:
        parts.append(Text(f"{num_following} more follow{'s' * (num_following == 1)} from it:"))
    return Text("\n").join(part for part in parts if part)


def mutes_table(mutes: Iterable[Mapping[str, Any]]) -> Table:
    """One row an acknowledged finding or a muted pattern."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "run", "what", "reason", "for"):
        table.add_column(column, overflow="fold")
    for one in mutes:
        until = one["until"]
        left = "good" if until is None else f"{max(until - time.time(), 0) / 3600:.1f} h"
        table.add_row(
            one["id"],
            Text(plain(one["run"])),
            Text(plain(_muted(one))),
            Text(plain(one["reason"])),
            left,
        )
    return table


def _muted(mute: Mapping[str, Any]) -> str:
    if mute["finding"]:
        return str(mute["finding"])
    given = [f"{name} {mute[name]}" for name in ("detector", "tensor") if mute[name] != "*"]
    return ", ".join(given) or "everything"


def partings_table(findings: Sequence[Mapping[str, Any]]) -> Table:
    """One row a finding of differs-from-reference: when, in what, which tensors, by how much."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("step", "in what", "tensors", "here", "there", "how sure"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        row = finding["evidence"][0] if finding["evidence"] else {}
        names = [plain(name) for name in finding["subjects"][:_SHOWN_SUBJECTS]]
        more = len(finding["subjects"]) - len(names)
        shown = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        table.add_row(
            str(finding["first_step"]),
            Text(plain(row.get("kind", ""))),
            Text(shown or "the run"),
            Text(plain(_told(row.get("value", row.get("ratio"))))),
            Text(plain(_told(row.get("expected", 1)))),
            Text(
                f"{finding['severity']}, {plain(row.get('mode', ''))}",
                style=_STYLE[finding["severity"]],
            ),
        )
    return table


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def runs_table(runs: Iterable[Mapping[str, Any]]) -> Table:
    """One row a run: how far it is and what is open."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "run",
        "phase",
        "step",
        "loss",
        "ranks",
        "attempts",
        "open findings",
        "last seen",
    ):
        table.add_column(column, overflow="fold")
    for run in runs:
        table.add_row(
            Text(plain(run["run"])),
            run["phase"],
            str(run["step"]) if run["step"] >= 0 else "-",
            _number(run["loss"]),
            f"{run['ranks_reporting']}/{run['world_size']}",
            str(run["attempts"]),
            _counts(run["findings"]),
            ago(time.time() - run["last_seen"]),
        )
    return table


def _number(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}"


def _counts(counts: Mapping[str, int]) -> Text:
    parts = [
        Text(f"{counts[name]} {name}", style=_STYLE[name])
        for name in ("critical", "warning", "info")
        if counts.get(name)
    ]
    return Text(", ").join(parts) if parts else Text("none")


def ago(seconds: float) -> str:
    """A time span as people say it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def coverage_table(run: Mapping[str, Any]) -> Table:
    """What was looked at in a run (as the API gives it), and what was never exercised, so that nobody can judge it."""
    detail = run["detail"]
    done, shares = detail.get("exercised", {}), detail.get("seen", {})
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    counts = ", ".join(f"{done[what]} {what}" for what in _EXERCISED if done.get(what))
    looks = ", ".join(f"{kind} of {share:.0%}" for kind, share in shares.items())
    table.add_row("run", Text(plain(run["run"])))
    table.add_row("covered", Text(f"{detail.get('tensors', 0)} tensors; {counts or 'nothing'}"))
    table.add_row("looked at", Text(looks or "nothing"))
    if detail.get("mesh"):
        table.add_row("mesh", Text(plain(shape_text(detail["mesh"]))))
    if detail.get("plan"):
        table.add_row("plan", Text(plain(detail["plan"])))
    table.add_row("not covered", Text("; ".join(detail.get("never", ())) or "-"))
    if detail.get("compared"):
        table.add_row("compared", Text(plain(detail["compared"])))
    failed = ", ".join(
        f"{name} ({count} times)" for name, count in detail.get("detector_failures", {}).items()
    )
    for text in detail.get("unknown", ()):
        table.add_row(Text("passed over", style="bold red"), Text(plain(text)))
    if failed:
        table.add_row(
            Text("failed", style="bold red"), Text(plain(f"detectors that raised: {failed}"))
        )
    return table


def print_report(
    out: Console, findings: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> None:
    """The findings, what was covered of each run, and the verdict."""
    if findings:
        out.print(findings_table(findings, with_run=len(runs) > 1))
    for run in runs:
        out.print(coverage_table(run))
    out.print(verdict(findings), markup=False)


def verdict(findings: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many findings of what severity were ever opened."""
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding["severity"]] = counts.get(finding["severity"], 0) + 1
    named = [f"{counts[name]} {name}" for name in ("critical", "warning", "info") if name in counts]
    if not named:
        return "no findings"
    tops = len(folded([(one["id"], one.get("caused_by", "")) for one in findings]))
    causes = f" (from {tops} cause{'s' * (tops != 1)})" if tops < len(findings) else ""
    return f"{len(findings)} finding{'s' * (len(findings) != 1)}: {', '.join(named)}{causes}"


def exit_status(findings: Iterable[Mapping[str, Any]]) -> int:
    """1 when a warning or worse was ever opened, else 0."""
    return int(any(finding["severity"] in ("critical", "warning") for finding in findings))
