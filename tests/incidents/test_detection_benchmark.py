"""
The benchmark of detection counts as the corpus's README says: what is a hit, what a false alarm, what is worse.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import CORPUS, Case, read_corpus
from benchmarks.detection import table, write_docs
from benchmarks.fits import FITS
from benchmarks.judging import Result, Shown, sort_out, totals, worse


def case(**fields: object) -> Case:
    """A faulty case of the family "tied" that goes wrong at step 30."""
    given = {"onset": 30, "earliest": 30, "world_size": 1, "is_healthy": False, **fields}
    return Case(name="case_99_a", id="99", family="tied", **given)  # type: ignore[arg-type]


def told(detector: str, first_step: int, told_step: int | None = None) -> Shown:
    """A warning that names a first wrong step, and was told at a step."""
    step = first_step if told_step is None else told_step
    return Shown(detector, "warning", first_step, step, ["w"], "It is wrong.")


def test_the_whole_corpus_is_read() -> None:
    """18 faulty cases and 6 healthy runs, of which one each needs two ranks; every family has its detectors."""
    cases = read_corpus(CORPUS, [])
    assert [sum(one.is_healthy is healthy for one in cases) for healthy in (False, True)] == [18, 6]
    assert {one.id for one in cases if one.world_size == 2} == {"06", "h17"}
    assert {one.family for one in cases} - {"healthy"} <= set(FITS)
    assert [one.id for one in read_corpus(CORPUS, ["h04", "case_43"])] == ["43", "h04"]
    router = read_corpus(CORPUS, ["43"])[0]
    assert (router.onset, router.earliest) == (20, 0)


@pytest.mark.parametrize(
    ("said", "hit", "early", "others"),
    [
        (told("tied-weights-broken", 31, 33), "tied-weights-broken", 0, 0),
        (told("tied-weights-broken", 29), None, 1, 0),
        (told("norm-explosion", 31), None, 0, 1),
    ],
    ids=["right and in time", "before the onset", "of another family"],
)
def test_what_is_a_hit(said: Shown, hit: str | None, early: int, others: int) -> None:
    """It must fit the family and must not come before the fault does."""
    result = Result(case())
    sort_out(result, [said])
    assert (result.hit and result.hit.detector) == hit
    assert (len(result.early), len(result.others)) == (early, others)
    if hit:
        assert (result.steps, result.told_after) == (1, 3)


def test_totals_and_what_is_worse() -> None:
    """One fault less, one alarm more, or later: each is told by name; better is not worse."""
    found, missed = Result(case()), Result(case())
    sort_out(found, [told("tied-weights-broken", 32, 35)])
    missed.alarms = [told("norm-explosion", 3)]
    now = totals([found, missed])
    assert (now["faulty"], now["found"], now["false_alarms"]) == (2, 1, 1)
    assert (now["steps_median"], now["told_p90"]) == (2, 5)
    assert worse(now, now) == []
    better = {**now, "found": 2, "false_alarms": 0, "told_p90": 4}
    assert [text.split(":")[0] for text in worse(now, better)] == [
        "found",
        "false_alarms",
        "told_p90",
    ]
    assert worse(better, now) == []
    assert "**missed**" in table([found, missed])
    assert "norm-explosion at 3" in table([found, missed])


def test_the_docs_keep_what_others_wrote(tmp_path: Path) -> None:
    """What was not measured now stays, in order."""
    page = tmp_path / "benchmarks.md"
    write_docs({"none": "first", "default": "stays"}, page)
    write_docs({"none": "second", "none, with a reference": "third"}, page)
    text = page.read_text()
    assert "first" not in text
    places = [text.index(part) for part in ("second", "stays", "third")]
    assert places == sorted(places)
