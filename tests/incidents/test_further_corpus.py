"""
The further corpora are what they say: each fault is in its faulty twin and not in its healthy one, and the page lists all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks.cases import BLIND, FURTHER, Case, read_corpus
from tests.forked import run_ranks
from tests.incidents.drive import drive, findings_of, load_case
from tests.incidents.evidence import answer_of_rank, is_there
from trainvitals_monitor.findings import Finding, Severity

CORPORA = {corpus: read_corpus(corpus, []) for corpus in (FURTHER, BLIND)}
CASES = [(corpus, case) for corpus, cases in CORPORA.items() for case in cases]
FAULTY = [(corpus, case) for corpus, case in CASES if not case.is_healthy]

FOUND = {
    "111": ("average-aliased", 20),
    "114": ("codebook-collapse", 1),
    "129": ("router-untrained", 0),
    "139": ("schedule-overrun", 21),
    "142": ("optimizer-state-reset", 23),
    "145": ("dropout-lost", 20),
    "146": ("parameter-not-in-optimizer", 30),
    "149": ("resume-discontinuity", 46),
    "201": ("wrong-from-initialisation", 0),
    "206": ("frozen-parameter-moved", 1),
    "207": ("tensor-unregistered", 0),
    "217": ("learning-rate-zero", 0),
    "225": ("base-weights-moved", 20),
    "227": ("workers-fed-same-data", 17),
    "242": ("optimizer-holds-dead-parameter", 41),
}
"""What some cases are there for: the detector that finds each, and the first step it names. The benchmark has all."""


@pytest.mark.parametrize("twin", ["faulty", "healthy"])
@pytest.mark.parametrize(
    ("corpus", "name"), [(corpus, case.name) for corpus, case in FAULTY if case.world_size == 1]
)
def test_the_fault_is_in_the_faulty_twin_only(
    corpus: Path, name: str, twin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case's own evidence, which no monitor has a part in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert is_there(load_case(name, corpus), twin == "healthy") == (twin == "faulty")


@pytest.mark.parametrize("number", FOUND)
def test_a_fault_of_the_corpus_is_found_and_its_twin_is_silent(number: str, tmp_path: Path) -> None:
    """By its detector alone, at the step at which it shows."""
    ((corpus, case),) = [one for one in FAULTY if one[1].id == number]
    module = load_case(case.name, corpus)
    drive(module, False, tmp_path / "faulty", budget=None)
    drive(module, True, tmp_path / "healthy", budget=None)
    loud = [(one.detector, one.first_step) for one in _loud(tmp_path / "faulty")]
    assert loud == [FOUND[number]]
    assert not _loud(tmp_path / "healthy")


def _loud(folder: Path) -> list[Finding]:
    return [one for one in findings_of(folder) if one.severity is not Severity.INFO]


@pytest.mark.distributed
@pytest.mark.parametrize("twin", ["faulty", "healthy"])
@pytest.mark.parametrize(
    ("corpus", "case"),
    [(corpus, case) for corpus, case in FAULTY if case.world_size > 1],
    ids=lambda part: part.name,
)
def test_the_fault_is_in_the_faulty_twin_of_two_ranks(
    corpus: Path, case: Case, twin: str, tmp_path: Path
) -> None:
    """Each rank comes to the same answer."""
    size, store = case.world_size, tmp_path / "store"
    ranks = [(case.name, corpus, twin == "healthy", rank, size, store) for rank in range(size)]
    ended = run_ranks(answer_of_rank, ranks, limit_s=120)
    assert [one.out.strip() for one in ended] == [str(twin == "faulty")] * size, ended


@pytest.mark.parametrize(
    ("corpus", "name"), [(corpus, case.name) for corpus, case in CASES if case.is_healthy]
)
def test_every_healthy_run_says_why_it_tempts(corpus: Path, name: str) -> None:
    """A healthy run that tempts nobody measures nothing."""
    meta = load_case(name, corpus).META
    assert meta["tempts"]
    assert meta["family"] == "healthy"


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
def test_the_page_lists_every_case_by_its_number(corpus: Path) -> None:
    """And no other; ids are not used twice."""
    ids = [case.id for case in CORPORA[corpus]]
    firsts = tuple({f"| {one.rstrip('0123456789')}{one.lstrip('h')[0]}" for one in ids})
    page = (corpus / "README.md").read_text().splitlines()
    listed = [line.split("|")[1].strip() for line in page if line.startswith(firsts)]
    assert sorted(listed) == sorted(ids)
    assert len(set(listed)) == len(listed)
