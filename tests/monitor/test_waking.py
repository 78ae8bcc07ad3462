"""
Who is told of what, and when: the rules of waking.py, with time as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.waking import (
    DIGEST_S,
    GATHER_S,
    VANISHED_S,
    Message,
    RunState,
    WakeBook,
)


def finding(name: str, severity: str = "critical", **fields: object) -> Finding:
    """A finding called `name`, by a detector called the same."""
    made = Finding(
        id=name,
        run="moe",
        attempt="1",
        detector=name,
        severity=Severity(severity),
        group="*",
        subjects=["a.weight", "b.weight", "c.weight", "d.weight"],
        first_step=7,
        last_step=9,
        message="it is wrong.",
        advice="Mend it.",
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def state(
    *telling: Finding,
    heard: float | None = 0.0,
    closed: bool = False,
    gone: Sequence[Finding] = (),
    run: str = "moe",
) -> RunState:
    """A run with these findings to tell, and others that are resolved."""
    over = [one.resolved() for one in gone]
    return RunState(
        run=run,
        page="http://there/runs/moe",
        step=12,
        closed=closed,
        heard_at=heard,
        findings=[*telling, *over],
        telling=telling,
    )


class Clocked:
    """A book, and the time that passes."""

    def __init__(self, *, tell_over: bool = False) -> None:
        self.book = WakeBook(0.0, tell_over=tell_over)
        self.now = 0.0

    def after(self, seconds: float, *states: RunState, heard: bool = True) -> list[Message]:
        """What is told when so much time has passed and the runs are as given, heard of just now unless not."""
        self.now += seconds
        if heard:
            states = tuple(replace(one, heard_at=self.now) for one in states)
        return self.book.due(states, self.now)


def test_a_critical_finding_is_told_at_once_and_once() -> None:
    """With what happened, its tensors, what to do and the page; what joins it later is no news."""
    clock, one = Clocked(), finding("slot-replaced", last_clean_checkpoint="step-6.pt")
    (message,) = clock.after(1, state(one))
    assert (message.kind, message.title) == ("critical", "critical: run moe: slot-replaced")
    assert message.body == (
        "slot-replaced, from step 7 on: it is wrong.\na.weight, b.weight, c.weight and 1 more\n-> Mend it.\n"
        "last clean checkpoint: step-6.pt\n\nhttp://there/runs/moe"
    )
    grown = replace(one, subjects=[*one.subjects, "e.weight"], last_step=99)
    assert clock.after(2, state(grown)) == []
    assert clock.after(99 * DIGEST_S, state(grown)) == []


def test_critical_findings_that_come_together_are_one_message() -> None:
    """And each further one is told at once."""
    clock = Clocked()
    a, b, c = finding("a"), finding("b"), finding("c")
    assert [one.told for one in clock.after(1, state(a, b))] == [("a", "b")]
    assert [one.told for one in clock.after(2, state(a, b, c))] == [("c",)]


def test_warnings_come_as_a_digest() -> None:
    """The first waits for company; then ten minutes pass before the next, however many come meanwhile."""
    clock = Clocked()
    a, b, c = (finding(name, "warning") for name in "abc")
    assert clock.after(1, state(a)) == []
    assert clock.after(GATHER_S / 2, state(a, b)) == []
    assert [one.told for one in clock.after(GATHER_S / 2, state(a, b))] == [("a", "b")]
    assert clock.after(DIGEST_S - 1, state(a, b, c)) == []
    assert clock.after(GATHER_S - 1, state(a, b, c)) == []
    assert [one.told for one in clock.after(1, state(a, b, c))] == [("c",)]


def test_a_warning_that_is_over_before_its_digest_is_not_told() -> None:
    """Nor is anything said of its end."""
    clock, one = Clocked(tell_over=True), finding("a", "warning")
    assert clock.after(1, state(one)) == []
    assert clock.after(GATHER_S, state(gone=[one])) == []


def test_warnings_wait_while_something_critical_is_open() -> None:
    """As Alertmanager inhibits them; another run's are told."""
    clock, bad, mild = Clocked(), finding("bad"), finding("mild", "warning")
    other = state(mild, run="other")
    assert [one.kind for one in clock.after(1, state(bad, mild), other)] == ["critical"]
    (message,) = clock.after(GATHER_S, state(bad, mild), other)
    assert message.run == "other"
    assert clock.after(GATHER_S, state(mild, gone=[bad]), other) == []
    (message,) = clock.after(GATHER_S, state(mild, gone=[bad]), other)
    assert (message.run, message.told) == ("moe", ("mild",))


def test_info_is_told_nobody() -> None:
    """Whatever time passes."""
    clock, one = Clocked(), finding("a", "info")
    assert clock.after(1, state(one)) == []
    assert clock.after(DIGEST_S, state(one)) == []


def test_what_is_not_to_be_told_is_not() -> None:
    """What is explained, acknowledged or muted is not in `telling`; once it is, it is told."""
    clock, one = Clocked(), finding("a")
    hidden = replace(state(one), telling=())
    assert clock.after(1, hidden) == []
    assert len(clock.after(1, state(one))) == 1


def test_what_gets_worse_is_told_again() -> None:
    """A warning that turns critical; not one that turns mild."""
    clock, one = Clocked(), finding("a", "warning")
    clock.after(1, state(one))
    assert [m.kind for m in clock.after(GATHER_S, state(one))] == ["warning"]
    worse = replace(one, severity=Severity.CRITICAL)
    assert [m.kind for m in clock.after(1, state(worse))] == ["critical"]
    assert clock.after(DIGEST_S, state(one)) == []


def test_what_comes_and_goes_is_not_told_each_time() -> None:
    """A finding that comes back is told again, but not within the time of a digest."""
    clock, one = Clocked(), finding("a")
    assert len(clock.after(1, state(one))) == 1
    assert clock.after(2, state(gone=[one])) == []
    assert clock.after(2, state(one)) == []
    assert len(clock.after(DIGEST_S, state(one))) == 1


def test_what_is_over_is_one_line_for_who_asks() -> None:
    """Of what was told only."""
    clock, a, b = Clocked(tell_over=True), finding("a"), finding("b", "warning")
    clock.after(1, state(a, b))
    (message,) = clock.after(1, state(gone=[a, b]))
    assert (message.kind, message.title) == ("over", "run moe: a is over")
    assert clock.after(1, state(gone=[a, b])) == []


def test_a_vanished_run_is_one_message() -> None:
    """When nothing was heard of it for minutes and it did not say that it ends; again when it comes back and vanishes."""
    clock = Clocked(tell_over=True)
    assert clock.after(1, state()) == []
    silent = state(heard=1.0)
    assert clock.after(VANISHED_S - 1, silent, heard=False) == []
    (message,) = clock.after(2, silent, heard=False)
    assert (message.kind, message.title) == ("vanished", "run moe has vanished")
    assert "after step 12" in message.body
    assert clock.after(9 * VANISHED_S, silent, heard=False) == []
    assert [one.title for one in clock.after(1, state())] == ["run moe is heard of again"]
    assert [one.kind for one in clock.after(9 * VANISHED_S, silent, heard=False)] == ["vanished"]


def test_a_muted_run_vanishes_in_silence() -> None:
    """Until it is muted no more, should it still be gone then."""
    clock = Clocked(tell_over=True)
    assert clock.after(1, state()) == []
    silent = state(heard=1.0)
    muted = replace(silent, muted=True)
    assert clock.after(2 * VANISHED_S, muted, heard=False) == []
    assert [one.kind for one in clock.after(1, silent, heard=False)] == ["vanished"]
    assert clock.after(1, muted, heard=False) == []


def test_a_run_that_ended_has_not_vanished() -> None:
    """It said so."""
    clock = Clocked()
    clock.after(1, state())
    assert clock.after(9 * VANISHED_S, state(heard=1.0, closed=True), heard=False) == []


def test_a_run_that_left_memory_can_still_vanish() -> None:
    """Once; then it is forgotten."""
    clock = Clocked()
    clock.after(1, state())
    assert [one.kind for one in clock.after(9 * VANISHED_S)] == ["vanished"]
    assert clock.after(1) == []
    assert clock.book.as_json() == {}


def test_runs_of_the_past_are_not_told() -> None:
    """What a start reads back from the store, and nobody sends frames of, is as it was left."""
    clock = Clocked()
    past = state(finding("a"), heard=None)
    assert clock.after(1, past, heard=False) == []
    assert clock.after(9 * VANISHED_S, past, heard=False) == []


def test_a_restart_tells_nothing_twice_and_forgets_nothing() -> None:
    """What was sent is not sent again; what was not is, and a run that died meanwhile has vanished."""
    clock = Clocked()
    a, b = finding("a"), finding("b")
    clock.after(1, state(a))
    unsent = clock.after(1, state(a, b))
    again = WakeBook(0.0, stored=clock.book.as_json(unsent))
    (message,) = again.due([state(a, b, heard=None)], 1.0)
    assert message.told == ("b",)
    (message,) = again.due([state(a, b, heard=None)], 1.0 + VANISHED_S)
    assert message.kind == "vanished"


def test_a_message_is_no_book() -> None:
    """Of many findings the first are spelled out, and the others counted."""
    many = [finding(f"fault-{number}") for number in range(20)]
    (message,) = Clocked().after(1, state(*many))
    assert message.body.count("Mend it.") == 8
    assert "and 12 more" in message.body
    assert len(message.told) == 20
