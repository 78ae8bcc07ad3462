"""
What is found of real bugs, how soon, and what is said about runs in which nothing is wrong.

Every case of the corpus (tests/incidents/corpus: real silent bugs re-enacted small, each with a healthy twin, and
healthy runs that tempt a monitor; further ones are in tests/incidents/further and blind) is trained under the agent, each twin and rank in a process of its own, frames to a
folder; the monitor's engine then judges the frames.

    python -m benchmarks.detection [--budget none|default|SHARE] [--case 01 --case h04] [--corpus FOLDER] [--json]
        [--write-docs] [--accept] [--reference] [--seed N]

A hit is a finding above info, at or after the step at which the fault sets in, by a detector that fits the fault's
family (FITS). Before that step, or in a healthy run, a finding above info is a false alarm. Two numbers are given for
each hit: how far the finding's first wrong step lies from the onset, and how many steps later it was told: detectors
that need several looks name an earlier step than the one at which they speak.

With `--reference` each faulty twin is judged with the healthy twin as its reference, and each healthy run with a second
run of itself: then differs-from-reference fits every family.

Exit status 1 if the totals are worse than the accepted ones in detection.json; `--accept` writes those, and
`--write-docs` the tables of the budgets that were asked for. Both corpora have totals and tables of their own.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import DOCS, ROOT, machine, read_part, write_part
from benchmarks.twins import train
from trainvitals_monitor.detectors import Detector
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.history import Reference, View
from trainvitals_monitor.history.attempt import AttemptHistory
from trainvitals_monitor.overrides import Tuning
from trainvitals_monitor.recording import reference_from
from trainvitals_monitor.replay import replay

CORPUS = ROOT / "tests" / "incidents" / "corpus"
FURTHER = ROOT / "tests" / "incidents" / "further"
BLIND = ROOT / "tests" / "incidents" / "blind"
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
}
"""Whose results are kept: by corpus, the part of the docs and what it begins with."""

_HEADING = "### Budget "

FITS: dict[str, tuple[str, ...]] = {
    "bn": (
        "eval-mode-in-training",
        "batch-norm-frozen",
        "frozen-statistics-moved",
        "buffer-stuck",
    ),
    "buffer_unsaved": ("tensor-unregistered", "checkpoint-incomplete"),
    "checkpoint": (
        "checkpoint-stale",
        "checkpoint-incomplete",
        "resume-not-applied",
        "resume-mismatched",
        "resume-discontinuity",
        "load-incomplete",
    ),
    "codebook": ("codebook-collapse", "buffer-stuck", "parameter-stuck", "replica-divergence"),
    "coverage": (
        "parameter-not-in-optimizer",
        "optimizer-holds-dead-parameter",
        "tensor-unregistered",
        "gradient-missing",
        "gradient-zero",
        "parameter-stuck",
    ),
    "divergence": ("replica-divergence",),
    "dtype": ("contract-broken", "dtype-changed", "updates-lost", "buffer-stuck", "counter-stuck"),
    "inputs": ("batch-repeated", "replicas-fed-same-batch", "workers-fed-same-data"),
    "same_data": ("batch-repeated", "replicas-fed-same-batch", "workers-fed-same-data"),
    "ema": (
        "buffer-stuck",
        "batch-norm-frozen",
        "average-stuck",
        "average-aliased",
        "resume-discontinuity",
    ),
    "explosion": ("gradient-not-cleared", "gradient-explosion", "norm-explosion", "loss-spike"),
    "frozen": ("gradient-missing", "gradient-zero", "parameter-stuck"),
    "frozen_moves": ("frozen-parameter-moved", "base-weights-moved"),
    "identity": ("slot-replaced", "checkpoint-stale", "tensor-unregistered"),
    "keys": ("checkpoint-keys-changed", "resume-not-applied", "load-incomplete"),
    "lora": (
        "lora-a-growth",
        "lora-b-stuck",
        "lora-dead",
        "loss-at-chance",
        "load-incomplete",
        "gradient-missing",
        "parameter-not-in-optimizer",
        "frozen-parameter-moved",
        "base-weights-moved",
        "resume-discontinuity",
    ),
    "modes": ("eval-mode-in-training", "batch-norm-frozen", "dropout-lost"),
    "lost_update": ("updates-lost", "parameter-stuck"),
    "nonfinite": ("non-finite", "loss-non-finite"),
    "optimizer_state": (
        "optimizer-state-reset",
        "optimizer-state-low-precision",
        "moments-permuted",
        "resume-discontinuity",
    ),
    "overwritten": ("weights-overwritten",),
    "precision": (
        "gradient-clipped-away",
        "update-ratio-out-of-range",
        "updates-lost",
        "gradient-vanishing",
    ),
    "router": (
        "router-collapse",
        "router-untrained",
        "expert-load-imbalance",
        "expert-dead",
        "expert-bias-drift",
    ),
    "schedule": (
        "learning-rate-zero",
        "learning-rate-vanished",
        "learning-rate-jump",
        "schedule-overrun",
        "resume-discontinuity",
    ),
    "steps": ("steps-skipped",),
    "tied": ("tied-weights-broken", "slot-replaced"),
    "vanishing": ("norm-collapse", "gradient-vanishing", "gradient-zero"),
}
"""
Which detectors fit a fault of which family: the one table, of the names that detectors have or are to have (the design's
catalogue). A family that is not in it is answered by any detector.
"""


ANY = "differs-from-reference"
"""Fits every family: it says where a run parts from a good one, whatever the reason."""


@dataclass(frozen=True)
class Case:
    """A module of the corpus, by what its META says; nothing of it is imported here."""

    name: str
    id: str
    family: str
    onset: int
    earliest: int
    world_size: int
    is_healthy: bool


@dataclass(frozen=True)
class Told:
    """A finding above info, and the step (the trainer's) at which a monitor would have shown it."""

    detector: str
    severity: str
    first_step: int
    told_step: int
    subjects: list[str]
    message: str


@dataclass
class Result:
    """What was said of a case's twins; `hit` is the earliest finding that counts."""

    case: Case
    hit: Told | None = None
    early: list[Told] = field(default_factory=list)
    others: list[Told] = field(default_factory=list)
    alarms: list[Told] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int | None:
        """From onset to the first step that the finding names as wrong."""
        return None if self.hit is None else max(0, self.hit.first_step - self.case.onset)

    @property
    def told_after(self) -> int | None:
        """From onset to the step at which it was told."""
        return None if self.hit is None else max(0, self.hit.told_step - self.case.onset)


class Listener(Engine):
    """An engine that notes at which step each finding is first above info."""

    def __init__(
        self, run: str, detectors: Sequence[type[Detector]], tuning: Tuning | None = None
    ) -> None:
        super().__init__(run, detectors, tuning)
        self.told: dict[str, tuple[str, int]] = {}

    def _look(self, attempt: AttemptHistory, view: View) -> None:
        super()._look(attempt, view)
        for finding in self.drain_changes():
            if finding.severity is not Severity.INFO:
                self.told.setdefault(finding.id, (attempt.key, view.step))

    def told_step(self, finding: Finding) -> int:
        """In the trainer's numbers."""
        key, step = self.told[finding.id]
        return max(0, step + (self._offsets.get(key) or 0))


# -- the corpus --------------------------------------------------------------------------------------------------------


def read_corpus(folder: Path, wanted: Sequence[str]) -> list[Case]:
    """The cases of a corpus, faulty ones first; `wanted`: ids or beginnings of names, none for all."""
    files = [*sorted(folder.glob("case_*.py")), *sorted(folder.glob("healthy_*.py"))]
    cases = [_read_case(path) for path in files]
    return [
        case
        for case in cases
        if not wanted or any(case.id == one or case.name.startswith(one) for one in wanted)
    ]


def _read_case(path: Path) -> Case:
    meta = _meta(path)
    healthy = path.name.startswith("healthy_")
    onset = 0 if healthy else int(meta["bug_step"])
    return Case(
        name=path.stem,
        id=str(meta["id"]),
        family=str(meta["family"]),
        onset=onset,
        earliest=int(meta.get("earliest", onset)),
        world_size=int(meta.get("world_size", 1)),
        is_healthy=healthy,
    )


def _meta(path: Path) -> dict[str, Any]:
    """`META = dict(...)` of a case, literals only."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "META":
            assert isinstance(node.value, (ast.Call, ast.Dict)), path
            if isinstance(node.value, ast.Dict):
                return dict(ast.literal_eval(node.value))
            pairs = [(word.arg, _literal(word.value)) for word in node.value.keywords]
            return {name: value for name, value in pairs if name is not None}
    raise ValueError(f"{path} has no META")


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


# -- one case ----------------------------------------------------------------------------------------------------------


def judge(
    case: Case, corpus: Path, budget: str, with_reference: bool = False, seed: int = 0
) -> Result:
    """Both twins of a case (a healthy run has one), trained and judged; the reference is one more healthy run."""
    result = Result(case)
    with tempfile.TemporaryDirectory(prefix="detection-") as good:
        if with_reference:
            result.errors += train(
                case.name, "healthy", Path(good), corpus, budget, case.world_size, seed
            )
        reference = reference_from(Path(good)) if with_reference and not result.errors else None
        for twin in ("healthy",) if case.is_healthy else ("faulty", "healthy"):
            with tempfile.TemporaryDirectory(prefix="detection-") as folder:
                errors = train(case.name, twin, Path(folder), corpus, budget, case.world_size, seed)
                result.errors += [f"{twin}: {error}" for error in errors]
                written = any(Path(folder).rglob("*.safetensors"))
                told = listen(Path(folder), reference) if written else []
            if twin == "healthy":
                result.alarms = told
            else:
                sort_out(result, told)
    return result


def listen(folder: Path, reference: Reference | None = None) -> list[Told]:
    """What the engine says above info about the frames, as it was told."""
    told = []
    for engine in replay(folder, make=Listener, reference=reference):
        assert isinstance(engine, Listener)
        assert not engine.detector_failures, engine.last_failure
        told += [
            Told(
                detector=finding.detector,
                severity=finding.severity.value,
                first_step=finding.first_step,
                told_step=engine.told_step(finding),
                subjects=finding.subjects[:3],
                message=finding.message,
            )
            for finding in engine.findings
            if finding.severity is not Severity.INFO
        ]
    return sorted(told, key=lambda one: (one.told_step, one.first_step))


def sort_out(result: Result, told: Iterable[Told]) -> None:
    """Hit, too early, or of another family; a second one that fits is no hit."""
    fits = FITS.get(result.case.family)
    for one in told:
        if one.first_step < result.case.earliest:
            result.early.append(one)
        elif result.hit is None and (fits is None or one.detector in (*fits, ANY)):
            result.hit = one
        else:
            result.others.append(one)


# -- all of them -------------------------------------------------------------------------------------------------------


def totals(results: Sequence[Result]) -> dict[str, float]:
    """What is compared with the accepted totals: more found, fewer alarms, fewer steps are better."""
    faulty = [result for result in results if not result.case.is_healthy]
    steps = [result.steps for result in faulty if result.steps is not None]
    told = [result.told_after for result in faulty if result.told_after is not None]
    return {
        "faulty": len(faulty),
        "found": len(steps),
        "healthy": len(results),
        "false_alarms": sum(len(result.alarms) + len(result.early) for result in results),
        "errors": sum(len(result.errors) for result in results),
        "steps_median": statistics.median(steps) if steps else math.inf,
        "steps_p90": _percentile(steps, 90),
        "told_median": statistics.median(told) if told else math.inf,
        "told_p90": _percentile(told, 90),
    }


def _percentile(values: Sequence[int], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return float(ordered[math.ceil(len(ordered) * percent / 100) - 1]) if ordered else math.inf


def worse(now: dict[str, float], accepted: dict[str, float]) -> list[str]:
    """The totals that are worse than the accepted ones, in words."""
    higher_is_better = {"faulty", "found", "healthy"}
    return [
        f"{name}: {now[name]:g}, accepted is {accepted[name]:g}"
        for name in accepted
        if (now[name] < accepted[name] if name in higher_is_better else now[name] > accepted[name])
    ]


# -- what is shown -----------------------------------------------------------------------------------------------------


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
