"""
What benchmarks report with: figures with their spread, tables, the machine's line, and a part of docs/benchmarks.md each.

A part is a page section between two markers that bear its name; a benchmark writes its own and leaves all others as
they are. The order of the parts is the page's own. Nothing here measures anything.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks.md"


def machine(*packages: str) -> str:
    """Where figures come from, as a sentence: processor, memory, load now, and the versions of what was measured."""
    named = ", ".join(f"{name} {version(name)}" for name in (*packages, "trainvitals"))
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{os.cpu_count()} cores {platform.machine()} ({_processor()}), {gigabytes:.0f} GB, load {os.getloadavg()[0]:.1f}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {named}."
    )


def _processor() -> str:
    """As Linux names it; other systems may not say."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unnamed"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile; of fewer than three values the lowest and the highest."""
    if len(values) < 3:
        return min(values), statistics.median(values), max(values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and the quartiles in brackets: `1.02 (1.01 to 1.04)`; `form` is a format specification."""
    low, middle, high = quartiles(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns stand to the right but for the first."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def progress(text: str) -> None:
    """How far a benchmark is, on stderr, over what stood there before."""
    print(f"\r{text}  ", end="", file=sys.stderr, flush=True)


def read_part(name: str, page: Path = DOCS) -> str:
    """What a part holds now; empty if the page hasn't got it."""
    begin, end = _markers(name)
    _, found, rest = _text(page).partition(begin)
    return rest.partition(end)[0].strip() if found else ""


def write_part(name: str, body: str, page: Path = DOCS) -> None:
    """Put `body` in the place of what the part held; a part that the page hasn't got is added at the end."""
    begin, end = _markers(name)
    text = _text(page)
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{body.strip()}\n{end}{after}")


def _text(page: Path) -> str:
    return page.read_text() if page.exists() else "# Benchmarks\n"


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
