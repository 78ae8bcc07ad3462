"""
`trainvitals contract write`, thresholds from files and contracts: from the command line to the engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.monitor.detectors.lock_scenarios import MODEL, W, lock, run, under
from tests.monitor.serving import serving
from tests.monitor.stream import Stream, feed, tensor
from tests.monitor.test_check import IN_PLACE, SCRIPT, check
from trainvitals.contract import Contract
from trainvitals.contract_file import DEFAULT_NAME, read_contract
from trainvitals.frame import decode
from trainvitals_monitor.cli import main
from trainvitals_monitor.config import Config
from trainvitals_monitor.engine import Engine
from trainvitals_monitor.overrides import Tuning

Captured = pytest.CaptureFixture[str]


def growing(contract: Contract | None = None) -> Stream:
    """A tensor whose norm doubles every seven steps: norm-explosion, by its defaults."""
    stream = Stream(["w"], contract=contract)
    for step in range(40):
        stream.step(values={"w": 4.0 * 1.1**step})
    return stream


def to_folder(stream: Stream, folder: Path) -> Path:
    """The stream's frames as an agent writes them."""
    stream.close()
    for blob in stream.frames:
        header, _ = decode(blob)
        place = folder / header["run"] / header["attempt"]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"rank0-{header['seq']:08d}.safetensors").write_bytes(blob)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    return tmp_path


def test_a_folder_becomes_a_lock_and_declarations_are_kept(here: Path, capsys: Captured) -> None:
    """Written once, then as it was; what people add above the mark stays when the model changes."""
    frames = to_folder(run(), here / "frames")
    assert main(["contract", "write", str(frames)]) == 0
    file = here / DEFAULT_NAME
    assert read_contract(file) == Contract(lock=lock())
    first = file.read_text()
    assert (
        '"layers.{0-1}.w" = { dtype = "float32", shape = [64], trainable = true, moves = true }'
        in first
    )
    assert main(["contract", "write", str(frames)]) == 0
    assert "as it was" in capsys.readouterr().out
    mine = first.replace("frozen = [] ", 'frozen = ["mine"]  # because ')
    file.write_text(mine)
    more = to_folder(run([*MODEL, tensor("layers.2.w")]), here / "more")
    assert main(["contract", "write", str(more)]) == 0
    renewed = file.read_text()
    assert read_contract(file).frozen == ("mine",)
    assert "# because" in renewed
    changed = {line for line in renewed.splitlines() if line not in mine.splitlines()}
    assert [line for line in changed if "layers.{0-2}.w" in line] == list(changed)


def test_a_monitor_gives_the_same_lock(here: Path) -> None:
    """By the run's name, also after a restart; what the monitor can't know then is left out, not made up."""
    stream = run()
    stream.flush()
    with serving(Config(store=str(here / "store"))) as http:
        http.push_all(stream.frames)
        assert main(["contract", "write", "run", "--monitor", str(http.base_url)]) == 0
    assert read_contract(here / DEFAULT_NAME).lock == lock()
    with serving(Config(store=str(here / "store"))) as http:
        assert main(["contract", "write", "run", "--monitor", str(http.base_url)]) == 0
    assert read_contract(here / DEFAULT_NAME).lock == lock()


@pytest.mark.parametrize(
    ("make", "status", "says"),
    [
        ("found", 1, "was found: norm-explosion"),
        ("several", 2, "holds several runs"),
        ("none", 2, "no frames"),
        ("other file", 2, "has no 'title'"),
    ],
)
def test_what_makes_no_lock(
    make: str, status: int, says: str, here: Path, capsys: Captured
) -> None:
    """A run that is not well, a folder of several or none, a file that is something else."""
    folder = here / "frames"
    folder.mkdir()
    if make == "found":
        to_folder(growing(), folder)
    elif make == "several":
        for name in "ab":
            stream = Stream(["w"], run=name)
            stream.step(values={"w": 1.0})
            to_folder(stream, folder)
    elif make == "other file":
        to_folder(run(), folder)
        (here / DEFAULT_NAME).write_text('title = "mine"\n')
    assert main(["contract", "write", str(folder)]) == status
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert make != "found" or main(["contract", "write", str(folder), "--force"]) == 0


def test_check_under_a_contract(tmp_path: Path) -> None:
    """A real script: silent under its own lock, exit 1 when a layer is wider, 2 for a file that is wrong."""
    source = SCRIPT.replace("UPDATE", IN_PLACE)
    frames = tmp_path / "frames"
    attached = source.replace(
        "state = model",
        f"import trainvitals; trainvitals.attach(model, optimizer, monitor={str(frames)!r}, budget=None)\n"
        "state = model",
    )
    file = tmp_path / "c.toml"
    # The script itself attaches: `check` watches it all the same.
    (tmp_path / "once.py").write_text(attached)
    subprocess.run(
        [sys.executable, "once.py", "x.pt"], cwd=tmp_path, check=True, capture_output=True
    )
    assert main(["contract", "write", str(frames), "--out", str(file)]) == 0
    ended = check(tmp_path, source, "--contract", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    wider = (
        source.replace("(8, 16)", "(8, 32)")
        .replace("1d(16)", "1d(32)")
        .replace("(16, 4)", "(32, 4)")
    )
    ended = check(tmp_path, wider, "--contract", str(file), "--json")
    assert ended.returncode == 1
    assert {one["detector"] for one in json.loads(ended.stdout)} == {"contract-broken"}
    file.write_text("frozn = []")
    ended = check(tmp_path, source, "--contract", str(file))
    assert ended.returncode == 2
    assert "did you mean 'frozen'" in ended.stderr


def test_thresholds_of_a_file_change_what_replay_finds(here: Path, capsys: Captured) -> None:
    """A detector that is off finds nothing; names that there are not are refused, with what was meant."""
    frames = to_folder(growing(), here / "frames")
    file = here / "t.toml"
    assert main(["replay", str(frames)]) == 1
    file.write_text('[thresholds."norm-explosion"]\noff = true')
    assert main(["replay", str(frames), "--thresholds", str(file)]) == 0
    capsys.readouterr()
    for text, says in (
        ('[thresholds."norm-explosions"]\noff = true', "did you mean 'norm-explosion'"),
        ("[thresholds.parameter-stuck]\nstep = 3", "did you mean 'steps'"),
        ("[thresholds.parameter-stuck.'a.*']\nfoo = 3", "it has: steps, gradient_share"),
    ):
        file.write_text(text)
        assert main(["replay", str(frames), "--thresholds", str(file)]) == 2
        assert says in capsys.readouterr().err


def test_a_contracts_thresholds_count_for_its_run_alone() -> None:
    """Over the monitor's own, per pattern, also after a restart of the engine; unknown names are told."""
    contract = Contract(
        thresholds={
            "contract-broken": {"*": {"still_steps": 100.0}, "x.*": {"nonsense": 1.0}},
            "no-such": {"*": {"a": 1.0}},
        },
        off=["norm-explosion"],
        lock=lock(),
    )
    still = {W: {"update_norm": 0.0, "changed": 0}}
    assert run(contract=under(lock()), updates=still).findings()
    stream = run(contract=contract, updates=still)
    engine = Engine("run", tuning=Tuning({"contract-broken": {"*": {"still_steps": 2.0}}}))
    feed(engine, stream.frames)
    engine.finish()
    assert not [one for one in engine.findings if one.detector == "contract-broken"]
    assert engine.detectors["contract-broken"].value("still_steps") == 100
    unknown = engine.coverage()["unknown"]
    assert any("no-such" in one for one in unknown)
    assert any("nonsense" in one for one in unknown)
    assert growing(Contract(off=["norm-explosion"])).findings() == []


def test_a_monitor_takes_thresholds_for_all_runs(tmp_path: Path) -> None:
    """Given in its configuration, kept over a restart, for runs that are read back too."""
    config = Config(store=str(tmp_path), tuning=Tuning(off=["norm-explosion"]))
    stream = growing()
    stream.flush()
    half = len(stream.frames) // 2
    for part in (stream.frames[:half], stream.frames[half:]):
        with serving(config) as http:
            http.push_all(part)
            assert http.get_json("/api/v1/runs/run/findings")["findings"] == []
