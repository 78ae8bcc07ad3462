"""
Runs that name a good one: the monitor looks it up in its own store, and says where they part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.incidents.drive import drive
from tests.incidents.reference_pairs import Trainer
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream
from trainvitals_monitor.cli import main
from trainvitals_monitor.config import Config

GOOD = Trainer(steps=24)


def frames(folder: Path, trainer: Trainer = GOOD, **settings: Any) -> list[bytes]:
    """A run's frames, as the agent has sent them."""
    drive(replace(trainer, META={}).case("pair"), True, folder, budget=None, **settings)
    return [path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of a good run named "good"."""
    folder = tmp_path_factory.mktemp("good")
    frames(folder, run="good")
    return folder


@pytest.fixture
def http(tmp_path: Path, good: Path) -> Iterator[Client]:
    """A monitor that has seen the good run."""
    with serving(Config(store=str(tmp_path / "store"))) as client:
        client.push_all([path.read_bytes() for path in sorted(good.rglob("*.safetensors"))])
        yield client


def partings(http: Client, run: str) -> list[tuple[str, int]]:
    """In what a run parts from its reference, above info, and when."""
    found = http.get_json(f"/api/v1/runs/{run}/findings")["findings"]
    return sorted(
        (one["evidence"][0]["kind"], one["first_step"])
        for one in found
        if one["detector"] == "differs-from-reference" and one["severity"] != "info"
    )


def compared(http: Client, run: str) -> str:
    """What the run's coverage says of its reference."""
    return str(http.get_json(f"/api/v1/runs/{run}")["detail"]["compared"])


def test_a_run_names_its_reference(http: Client, tmp_path: Path) -> None:
    """The same script is silent, a changed one is found in its first step; how much was compared is said."""
    http.push_all(frames(tmp_path / "same", run="same", reference="good"))
    assert not partings(http, "same")
    assert compared(http, "same") == "24 steps with those of run 'good'"
    http.push_all(frames(tmp_path / "half", replace(GOOD, divided=2), run="half", reference="good"))
    assert partings(http, "half")[0] == ("gradient", 0)
    assert "compared" in http.get("/runs/half").text


def test_an_unknown_reference_is_said_and_no_error(http: Client, tmp_path: Path) -> None:
    """Frames are taken as ever; the run's coverage says that there is nothing to compare with. So for the run itself."""
    for run, reference in (("lost", "no-such-run"), ("self", "self")):
        http.push_all(frames(tmp_path / run, replace(GOOD, steps=3), run=run, reference=reference))
        assert f"no run {reference!r} was known" in compared(http, run)
        assert not partings(http, run)


def test_a_restart_changes_nothing(good: Path, tmp_path: Path) -> None:
    """Halfway through a run the monitor is started anew: it goes on comparing, and says the same."""
    own = frames(
        tmp_path / "frames",
        replace(GOOD, divided=2),
        run="half",
        reference="good",
        interval_s=0.001,
    )
    assert len(own) > 3
    before = [path.read_bytes() for path in sorted(good.rglob("*.safetensors"))]
    told = []
    for cuts in ([], [1], [len(own) // 2]):
        store = str(tmp_path / f"store-{cuts}")
        for part in (
            [before],
            *([own[a:b]] for a, b in zip([0, *cuts], [*cuts, None], strict=True)),
        ):
            with serving(Config(store=store)) as http:
                http.push_all(part[0])
        with serving(Config(store=store)) as http:
            found = http.get_json("/api/v1/runs/half/findings")["findings"]
            told.append((found, compared(http, "half")))
    for found, said in told:
        assert [one["id"] for one in found] == [one["id"] for one in told[0][0]]
        assert said == "24 steps with those of run 'good'"


def test_what_was_forgotten_is_compared_from_the_chunks(tmp_path: Path) -> None:
    """Frames of a long reference are gone; a run that parts from it in its first steps is found, and one like it is not."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(wandering("good", 560).frames)
        assert len(list(http.monitor.store.frames(http.monitor.roster.get("good").id or 0))) < 320
        http.push_all(wandering("same", 120, reference="good").frames)
        http.push_all(wandering("other", 120, reference="good", parts_at=40).frames)
        assert not partings(http, "same")
        assert compared(http, "same") == "119 steps with those of run 'good'"
        assert partings(http, "other") == [("value", 40)]
        found = http.get_json("/api/v1/runs/other/comparison", reference="good")
        assert (found["mode"], found["steps"]) == ("bit-exact", 119)
        assert [one["first_step"] for one in found["findings"]] == [40]
    with serving(Config(store=str(tmp_path))) as http:
        assert http.get_json("/api/v1/runs/other/comparison", reference="good") == found
        http.push_all(wandering("new", 200, reference="good", parts_at=190).frames)
        assert partings(http, "new") == [("value", 190)]


def wandering(run: str, steps: int, *, reference: str = "", parts_at: int = 1 << 30) -> Stream:
    """A run whose norms wander in double precision, from some step on another way."""
    stream = Stream(["a", "b"], run=run, named_reference=reference)
    stream.optimizers([["a", "b"]])
    for step in range(1, steps + 1):
        usual = 1 + (step % 7) / 30
        stream.step(
            values={"*": usual + 1e-3 * (step >= parts_at)},
            gradients={"*": usual / 3},
            updates={"*": 0.01},
            loss=2 / usual,
            lr=1e-3,
        )
    stream.flush()
    return stream


def test_compare_takes_names(
    http: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of runs that a monitor has, whether or not one named the other; two words for what there is none of."""
    http.push_all(frames(tmp_path / "half", replace(GOOD, divided=2), run="half"))
    http.push_all(frames(tmp_path / "same", run="same"))
    url = ["--monitor", str(http.base_url)]
    assert main(["compare", "same", "good", *url]) == 0
    assert "24 steps compared, 24 of them equal; comparison: bit-exact" in capsys.readouterr().out
    assert main(["compare", "half", "good", *url]) == 1
    assert "gradient" in capsys.readouterr().out
    assert main(["compare", "half", "nothing", *url]) == 2
    assert "'nothing'" in capsys.readouterr().err


def test_compare_takes_a_folder_and_a_name(
    http: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Either may be either; the store is read while its monitor runs, and a wrong name is said."""
    frames(tmp_path / "half", replace(GOOD, divided=2), run="half")
    half, store = str(tmp_path / "half"), ["--store", str(tmp_path / "store")]
    assert main(["compare", half, "good", *store]) == 1
    assert "half beside good: 24 steps compared" in capsys.readouterr().out
    assert main(["compare", "good", half, *store]) == 1
    assert "good beside half: 24 steps compared" in capsys.readouterr().out
    assert main(["replay", half, "--reference", "good", *store]) == 1
    assert "differs-from-reference" in capsys.readouterr().out
    for wrong in (["nothing", *store], ["good", "--store", str(tmp_path)]):
        assert main(["compare", half, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    http.push_all(frames(tmp_path / "same", run="same", reference="good"))
