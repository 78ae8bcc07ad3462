"""
What follows from a fault is folded under it: the same live, replayed and after any restart.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.monitor.serving import serving
from tests.monitor.stream import Stream, digest_of, feed, tensor
from trainvitals_monitor.config import Config
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.findings import Finding, Severity, Status
from trainvitals_monitor.first_cause import (
    EXPLAINS,
    REACH_STEPS,
    Fault,
    direct_causes,
    places_of,
    standing,
)
from trainvitals_monitor.folding import folded, root_of
from trainvitals_monitor.tables import console, findings_table, verdict

BIAS = "moe.expert_bias"


def fault(detector: str, first_step: int = 5, **fields: Any) -> Fault:
    """A critical fault of the tensor layers.0.w, seen at its first step."""
    defaults = {
        "id": f"{detector}-{first_step}",
        "attempt": "a",
        "severity": Severity.CRITICAL,
        "last_step": first_step,
        "places": places_of(["layers.0.w"]),
    }
    return Fault(detector=detector, first_step=first_step, **{**defaults, **fields})


def cascade() -> Stream:
    """A tensor becomes NaN, then another, then the loss."""
    stream = Stream(["a.w", "b.v"])
    stream.optimizers([["a.w", "b.v"]])
    stream.step(values={"*": 1.0}, updates={"*": 0.1}, loss=1.0, steps=3)
    broken: dict[str, Any] = {"norm": math.nan, "nonfinite": 64}
    stream.step(values={"a.w": broken, "b.v": 1.0}, updates={"*": 0.1}, loss=1.0)
    for _ in range(4):
        stream.step(values={"*": broken}, updates={"*": 0.1}, loss=math.nan)
    stream.flush()
    return stream


def replaced() -> Stream:
    """A good save, then a buffer is replaced, and two saves hold the old one."""
    stream = Stream(["w", tensor(BIAS, kind="buffer")])
    stream.optimizers([["w"]])
    stale = {
        BIAS: {"digest": 5, "live_digest": digest_of(BIAS), "square_sum": 0.0, "stale_step": -1}
    }
    for step in range(1, 9):
        if step == 4:
            stream.slot(BIAS, "object", "storage", outlived=4)
        stream.step(values={"*": 1.0 + step / 10}, updates={"*": 0.1}, loss=1.0)
        if step in (3, 6, 8):
            stream.checkpoint(path=f"/ckpt/{step}", rows=stale if step > 3 else {})
    stream.flush()
    return stream


def told(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    """By id: the cause, and the checkpoint to go back to."""
    return {one.id: (one.caused_by, one.last_clean_checkpoint) for one in findings}


def test_the_table_names_detectors_that_there_are() -> None:
    """No effect is declared of or on a detector that does not exist; none twice."""
    known = {detector.name for detector in DETECTORS}
    assert set(EXPLAINS) <= known
    for name, effects in EXPLAINS.items():
        assert set(effects.on) <= known, name
        assert len(set(effects.on)) == len(effects.on), name


def test_one_nan_is_one_finding_with_its_consequences() -> None:
    """The first tensor stands on top; the others and the loss follow from it."""
    findings = cascade().findings()
    ids = {one.id: one for one in findings}
    tops = [one for one in findings if not one.caused_by]
    assert [(one.detector, one.subjects[0]) for one in tops] == [("non-finite", "a.w")]
    assert {one.detector for one in findings} >= {"non-finite", "loss-non-finite"}
    assert all(one.caused_by in ids for one in findings if one not in tops)
    assert [one.id for one in standing(findings)] == [tops[0].id]


def test_a_stale_checkpoint_follows_from_the_replaced_slot() -> None:
    """Both have the same checkpoint to go back to: the one from before the first wrong step."""
    by_name = {one.detector: one for one in replaced().findings()}
    slot, stale = by_name["slot-replaced"], by_name["checkpoint-stale"]
    assert stale.caused_by == slot.id
    assert slot.last_clean_checkpoint == stale.last_clean_checkpoint == "/ckpt/3 (step 3)"


def test_a_save_after_the_first_wrong_step_is_not_clean() -> None:
    """Even where the save itself holds what the model holds; and where no other was seen, none is named."""
    stream = Stream(["w", tensor(BIAS, kind="buffer")])
    stream.step(values={"*": 1.0})
    stream.slot(BIAS, "object", "storage", outlived=2)
    stream.step(values={"*": 1.0})
    stream.checkpoint(path="/ckpt/2")
    stream.step(values={"*": 1.0})
    (found,) = stream.findings()
    assert found.last_clean_checkpoint == ""


@pytest.mark.parametrize(
    ("first", "second", "explained"),
    [
        (fault("slot-replaced"), fault("checkpoint-stale"), True),
        (fault("slot-replaced", 6), fault("checkpoint-stale", 5), False),
        # What a replaced slot leads to can't un-happen; a norm that grew once may have been another matter.
        (fault("slot-replaced"), fault("checkpoint-stale", 9_000), True),
        (fault("norm-explosion"), fault("non-finite", 5 + REACH_STEPS), True),
        (fault("norm-explosion"), fault("non-finite", 6 + REACH_STEPS), False),
        (fault("norm-explosion", last_step=900), fault("non-finite", 800), True),
        # What spreads reaches no further, even if it can't un-happen.
        (fault("optimizer-state-reset"), fault("non-finite", 5 + REACH_STEPS), True),
        (fault("optimizer-state-reset"), fault("non-finite", 9_000), False),
        # Of another attempt, of other modules, or only worth knowing
        (fault("slot-replaced"), fault("checkpoint-stale", attempt="b"), False),
        (fault("slot-replaced"), fault("checkpoint-stale", places=places_of(["x.w"])), False),
        (fault("gradient-missing"), fault("parameter-stuck", places=places_of(["layers.0.b"])), True),
        (fault("norm-explosion"), fault("non-finite", 6, places=places_of(["x.w"])), True),
        (fault("slot-replaced", severity=Severity.INFO), fault("checkpoint-stale"), False),
        # Nobody says that one leads to the other
        (fault("checkpoint-stale"), fault("non-finite"), False),
        # The same step: the catalogue's order
        (fault("slot-replaced"), fault("dtype-changed"), True),
    ],
)  # fmt: skip
def test_when_one_explains_another(first: Fault, second: Fault, explained: bool) -> None:
    """The rule's every part, both ways."""
    assert direct_causes([second, first]) == ({second.id: first.id} if explained else {})


def test_a_cause_that_is_found_later_folds_what_was_there() -> None:
    """Whatever stands in the list first; and chains lead to the first of all."""
    stuck, dead = fault("parameter-stuck", 9), fault("optimizer-holds-dead-parameter", 5)
    assert direct_causes([stuck]) == {}
    assert direct_causes([stuck, dead]) == {stuck.id: dead.id}
    slot = fault("slot-replaced", 4)
    causes = direct_causes([stuck, dead, slot])
    assert root_of(causes, stuck.id) == slot.id


def test_a_worse_consequence_pages_for_itself() -> None:
    """Folded or not: a warning must not hide what is critical, nor what is over what still is."""
    top, *others = cascade().findings()
    assert standing([top, *others]) == [top]
    warning = replace(top, severity=Severity.WARNING)
    for cause in (warning, top.resolved()):
        still = standing([cause, *others])
        assert any(one.caused_by == top.id for one in still)
        assert all(one.severity is Severity.CRITICAL for one in still if one is not cause)


def test_folding_keeps_what_is_not_shown_out() -> None:
    """One whose cause is not among those shown stands on top."""
    assert folded([("c", "b"), ("a", ""), ("b", "a")]) == [(1, [0, 2])]
    assert folded([("c", "b"), ("a", "")]) == [(0, []), (1, [])]


@pytest.mark.parametrize("stream", [cascade(), replaced()], ids=["nan", "slot"])
def test_restarts_change_nothing(stream: Stream, tmp_path: Path) -> None:
    """Causes and checkpoints are stored; a monitor that ends in the middle, twice, comes to the same."""
    whole = told(stream.findings())
    assert any(cause for cause, _ in whole.values())
    middle = len(stream.frames) // 2
    for part in (
        stream.frames[:middle],
        stream.frames[middle : middle + 1],
        stream.frames[middle + 1 :],
    ):
        with serving(Config(store=str(tmp_path))) as http:
            http.push_all(part)
    with serving(Config(store=str(tmp_path))) as http:
        # A run that was not heard of for a day has no series; one frame comes again.
        http.push_all(stream.frames[-1:])
        found = http.get_json("/api/v1/runs/run/findings")["findings"]
        active = {
            one["detector"]: http.metric(
                "trainvitals_finding_active", run="run", detector=one["detector"]
            )
            for one in found
        }
        page = http.get("/runs/run").text
        counts = http.get_json("/api/v1/runs/run")["findings"]
    assert {one["id"]: (one["caused_by"], one["last_clean_checkpoint"]) for one in found} == whole
    assert sum(active.values()) == sum(counts.values()) == len(standing(stream.findings()))
    assert "from it</summary>" in page


def test_what_is_newly_explained_is_stored_again() -> None:
    """A finding that did not change but for its cause is among the changes."""
    stream = cascade()
    engine = Engine("run")
    last: dict[str, str] = {}
    for frame in stream.frames:
        feed(engine, [frame])
        last |= {one.id: one.caused_by for one in engine.drain_changes()}
    assert last == {one.id: one.caused_by for one in engine.findings}
    assert engine.findings[0].status is Status.OPEN


def test_tables_show_consequences_under_their_cause(capsys: pytest.CaptureFixture[str]) -> None:
    """One row with advice for the cause, and a short one for each that follows."""
    found = [one.as_json() for one in cascade().findings()]
    out = console()
    out.print(findings_table(found))
    text = capsys.readouterr().out
    assert f"{len(found) - 1} more follow" in text
    assert "+ loss-non-finite" in text
    assert text.count("->") == 1
    assert "last clean checkpoint: none known" in text
    assert verdict(found).endswith("(from 1 cause)")
