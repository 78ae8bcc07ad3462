"""
What is found of real bugs, how soon, and what is said about runs in which nothing is wrong.

Every case of the corpus (tests/incidents/corpus: real silent bugs re-enacted small, each with a healthy twin, and
healthy runs that tempt a monitor; further ones are in tests/incidents/further and blind) is trained under the agent,
each twin and rank in a process of its own, frames to a folder; the monitor's engine then judges the frames.

    python -m benchmarks.detection [--budget none|default|SHARE] [--case 01 --case h04] [--corpus FOLDER] [--json]
        [--write-docs] [--accept] [--reference] [--seed N]

A hit is a finding above info, at or after the step at which the fault sets in, by a detector that fits the fault's
family (fits.py). Before that step, or in a healthy run, a finding above info is a false alarm. Two numbers are given for
each hit: how far the finding's first wrong step lies from the onset, and how many steps later it was told: detectors
that need several looks name an earlier step than the one at which they speak.

With `--reference` each faulty twin is judged with the healthy twin as its reference, and each healthy run with a second
run of itself: then differs-from-reference fits every family.

Exit status 1 if the totals are worse than the accepted ones in detection.json; `--accept` writes those, and
`--write-docs` the tables of the budgets that were asked for. Each corpus has totals and tables of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import BLIND, CORPUS, FURTHER, Case, read_corpus
from benchmarks.judging import Result, judge, totals, worse
from benchmarks.report import DOCS, machine, read_part, write_part

ACCEPTED = Path(__file__).with_suffix(".json")
SECTIONS = {
    CORPUS: (
        "detection",
        "## Detection\n\nBy `python -m benchmarks.detection`, at each budget:",
    ),
    FURTHER: (
        "detection-further",
        (
            "## Detection: the further corpus\n\nBy `python -m benchmarks.detection --corpus tests/incidents/further`. Its "
            "cases were written apart from the detectors, from bug reports; some detectors have since been made for what it "
            "showed to be missed, so that it is no blind measure any more:"
        ),
    ),
    BLIND: (
        "detection-blind",
        (
            "## Detection: the blind corpus\n\nBy `python -m benchmarks.detection --corpus tests/incidents/blind`. Its cases "
            "were written by somebody who had not read a detector. When first run, 18 of its 42 faults were found and 10 "
            "false alarms raised; what it showed has been mended since as far as it holds for more than one case:"
        ),
    ),
}
"""Whose results are kept: by corpus, the part of the docs and what it begins with."""

_HEADING = "### Budget "


def table(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    rows = [
        ["case", "family", "found", "first step", "steps from onset", "told after", "healthy twin"],
        ["---", "---", "---", "---:", "---:", "---:", "---"],
        *(_row(result) for result in results),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(result: Result) -> list[str]:
    case, hit = result.case, result.hit
    early = "".join(f"; early: {one.detector} at {one.first_step}" for one in result.early)
    alarms = ", ".join(f"{one.detector} at {one.first_step}" for one in result.alarms) or "silent"
    if result.errors:
        alarms += "; did not run to its end"
    if case.is_healthy:
        return [case.name, case.family, "", "", "", "", alarms]
    if hit is None:
        heard = ", ".join(dict.fromkeys(one.detector for one in result.others))
        unfit = f" (said: {heard})" if heard else ""
        return [case.name, case.family, f"**missed**{unfit}{early}", "", "", "", alarms]
    return [
        case.name,
        case.family,
        f"{hit.detector}, {hit.severity}{early}",
        str(hit.first_step),
        str(result.steps),
        str(result.told_after),
        alarms,
    ]


def verdict(now: dict[str, float], budget: str) -> str:
    """The totals as two sentences."""
    return (
        f"Budget {budget}: {now['found']:g} of {now['faulty']:g} faults found, {now['false_alarms']:g} false alarms on "
        f"{now['healthy']:g} healthy runs. Steps from onset to the first step named: median {now['steps_median']:g}, 90th "
        f"percentile {now['steps_p90']:g}; to the step at which it was told: {now['told_median']:g} and "
        f"{now['told_p90']:g}."
    )


def write_docs(parts: Mapping[str, str], page: Path = DOCS, corpus: Path = CORPUS) -> None:
    """Results, each under its own heading; those that were not measured now stay."""
    mark, title = SECTIONS[corpus]
    _, *sections = read_part(mark, page).split(_HEADING)
    known = dict(section.split("\n", 1) for section in sections)
    known |= {name: f"{machine('torch', 'numpy')}\n\n{part}" for name, part in parts.items()}
    body = [f"{_HEADING}{name}\n\n{known[name].strip()}" for name in sorted(known, key=_place)]
    write_part(mark, "\n\n".join([title, *body]), page)


def _place(name: str) -> tuple[bool, bool, str]:
    """No budget first, those with a reference last."""
    return "reference" in name, not name.startswith("none"), name


def main() -> int:
    """Every case, at each budget asked for."""
    arguments = _arguments()
    cases = read_corpus(arguments.corpus, arguments.case)
    if not cases:
        print(f"no such case in {arguments.corpus}", file=sys.stderr)
        return 2
    accepted = json.loads(ACCEPTED.read_text()) if ACCEPTED.exists() else {}
    is_whole = arguments.corpus in SECTIONS and not arguments.case and not arguments.seed
    of_corpus = "" if arguments.corpus == CORPUS else f"{arguments.corpus.name}: "
    parts, output, complaints = {}, {}, []
    plain = arguments.budget or ([] if arguments.reference else ["none"])
    for budget, beside in [(one, False) for one in plain] + [("none", True)] * arguments.reference:
        results = run_all(
            cases, arguments.corpus, budget, arguments.workers, beside, arguments.seed
        )
        now = totals(results)
        name = f"{budget}, with a reference" if beside else budget
        part = f"{table(results)}\n\n{verdict(now, name)}"
        parts[name] = part
        output[name] = {"totals": now, "results": [asdict(result) for result in results]}
        shown = f"\n{verdict(now, name)}" if arguments.json else part + "\n"
        print(shown, file=_out(arguments), flush=True)
        if is_whole and arguments.accept:
            accepted[of_corpus + name] = now
        elif is_whole:
            before = accepted.get(of_corpus + name, {})
            complaints += [f"{name}: {text}" for text in worse(now, before)]
        complaints += [f"{name}: {r.case.name} {e}" for r in results for e in r.errors]
    if arguments.json:
        print(json.dumps(output, indent=1))
    if is_whole and arguments.accept:
        ACCEPTED.write_text(json.dumps(accepted, indent=2) + "\n")
    if is_whole and arguments.write_docs:
        write_docs(parts, corpus=arguments.corpus)
    for complaint in complaints:
        print(f"worse: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def run_all(
    cases: Sequence[Case],
    corpus: Path,
    budget: str,
    workers: int,
    with_reference: bool = False,
    seed: int = 0,
) -> list[Result]:
    """Some cases at a time; progress on stderr."""
    start = time.monotonic()
    done = 0

    def one(case: Case) -> Result:
        nonlocal done
        result = judge(case, corpus, budget, with_reference, seed)
        done += 1
        said = result.hit.detector if result.hit else "silent" if case.is_healthy else "missed"
        loud = f", {len(result.alarms) + len(result.early)} false alarms" * bool(
            result.alarms or result.early
        )
        print(
            f"[{done}/{len(cases)} {time.monotonic() - start:.0f} s] {case.name}: {said}{loud}",
            file=sys.stderr,
            flush=True,
        )
        return result

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, cases))


def _out(arguments: argparse.Namespace) -> Any:
    return sys.stderr if arguments.json else sys.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What is found of real bugs, and how soon.")
    parser.add_argument(
        "--budget",
        action="append",
        help="none (default), default, or a share; several are reported apart",
    )
    parser.add_argument("--case", action="append", default=[], help="an id or the name's beginning")
    parser.add_argument(
        "--corpus",
        type=lambda given: Path(given).resolve(),
        default=CORPUS,
        help="another corpus, same interface: tests/incidents/further is one",
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="also judge at budget none beside a run of the healthy twin",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="other weights and data than those the cases are written with",
    )
    parser.add_argument("--workers", type=int, default=2, help="cases at a time")
    parser.add_argument("--json", action="store_true", help="everything that was said, as JSON")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into the docs")
    parser.add_argument("--accept", action="store_true", help="make these totals the accepted ones")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
