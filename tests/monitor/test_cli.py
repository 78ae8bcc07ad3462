"""
The command line: what it prints, where, and with which exit status.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitor.serving import serving
from tests.monitor.stream import Stream, tensor
from trainvitals.frame import decode
from trainvitals_monitor.cli import cli, main
from trainvitals_monitor.config import Config

REQUIRED = {
    "id", "run", "attempt", "detector", "severity", "subjects", "first_step", "last_step", "status",
    "message", "evidence",
}  # fmt: skip
TOKEN = "a-token-to-read"  # noqa: S105
Captured = pytest.CaptureFixture[str]


def play(run: str, *, faulty: bool) -> list[bytes]:
    """Frames of twelve steps; with the fault, a buffer is replaced in each of them."""
    stream = Stream(["layers.0.w", tensor("moe.expert_bias", kind="buffer")], run=run)
    stream.optimizers([["layers.0.w"]])
    for step in range(1, 13):
        if faulty:
            stream.slot("moe.expert_bias", "object", "storage", outlived=0)
        stream.step(values={"*": 1.0 + step % 3 / 10}, updates={"layers.0.w": 0.1}, loss=2.0)
    stream.close()
    return stream.frames


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are not folded, whatever the terminal of whoever runs the tests."""
    monkeypatch.setenv("COLUMNS", "110")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the frames of a healthy and of a faulty run."""
    for run in ("sound", "faulty"):
        for blob in play(run, faulty=run == "faulty"):
            header, _ = decode(blob)
            place = tmp_path / "frames" / run / header["attempt"]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"rank0-{header['seq']:08d}.safetensors").write_bytes(blob)
    return tmp_path / "frames"


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[str]:
    """The address of a monitor that wants a read token, and has judged a healthy and a faulty run."""
    config = Config(store=str(tmp_path / "store"), read_token=TOKEN)
    with serving(config, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        http.push_all(play("team/faulty", faulty=True) + play("sound", faulty=False))
        yield str(http.base_url)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """A file with the read token that only its owner can read."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return str(file)


@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_help_has_examples(name: str, capsys: Captured) -> None:
    """`--help` of every command shows how it is typed."""
    assert main([*([name] if name else []), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"  trainvitals {name}" in text


def test_version(capsys: Captured) -> None:
    """`--version` prints the name and a version number, and nothing else."""
    assert main(["--version"]) == 0
    assert re.fullmatch(r"trainvitals \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_replay_of_a_faulty_run_as_json(folder: Path, capsys: Captured) -> None:
    """`replay --json` prints a list of findings with all promised fields, and exits with 1."""
    assert main(["replay", str(folder), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found) >= REQUIRED
    assert found["run"] == "faulty"
    assert found["detector"] == "slot-replaced"
    assert found["subjects"] == ["moe.expert_bias"]


def test_replay_of_a_sound_run(folder: Path, capsys: Captured) -> None:
    """Nothing found: an empty list, exit status 0."""
    assert main(["replay", str(folder / "sound"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_replay_as_a_table(folder: Path, capsys: Captured) -> None:
    """Without --json a person reads what happened, what to do and what was not covered, without colour codes."""
    assert main(["replay", str(folder / "faulty")]) == 1
    text = capsys.readouterr().out
    assert "slot-replaced" in text
    assert "-> Update the buffer in place" in text
    assert "no checkpoint was saved" in text
    assert "12 steps" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("make", ["nothing", "empty", "damaged"])
def test_replay_of_bad_input(make: str, tmp_path: Path, capsys: Captured) -> None:
    """No folder, no frames, a damaged frame: exit status 2 and one line on stderr."""
    folder = tmp_path / "frames"
    if make != "nothing":
        folder.mkdir()
    if make == "damaged":
        (folder / "rank0-00000000.safetensors").write_bytes(b"no frame")
    assert main(["replay", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert str(folder) in said.err


def test_runs(monitor: str, token_file: str, capsys: Captured) -> None:
    """`runs` lists every run with what is open in it."""
    assert main(["runs", "--monitor", monitor, "--token-file", token_file]) == 0
    text = capsys.readouterr().out
    assert re.search(r"team/faulty\s+closed\s+12\s+2\s+1/1\s+1\s+1 critical", text)
    assert re.search(r"sound\s+closed\s+12\s+2\s+1/1\s+1\s+none", text)
    assert main(["runs", "--json", "--monitor", monitor, "--token-file", token_file]) == 0
    assert {run["run"] for run in json.loads(capsys.readouterr().out)} == {"team/faulty", "sound"}


def test_findings(monitor: str, token_file: str, capsys: Captured) -> None:
    """`findings RUN` shows what is open and exits with 1; for a sound run it says so and exits with 0."""
    options = ["--monitor", monitor, "--token-file", token_file]
    assert main(["findings", "team/faulty", *options]) == 1
    assert "slot-replaced" in capsys.readouterr().out
    assert main(["findings", "sound", *options]) == 0
    assert capsys.readouterr().out == "sound: no findings\n"
    assert main(["findings", "none", *options]) == 1
    assert "no run 'none'" in capsys.readouterr().err


def test_acknowledging_and_muting(tmp_path: Path, capsys: Captured) -> None:
    """`findings` shows ids, `ack` and `mute` silence, `mutes` lists and takes back; what is asked wrongly is said."""
    with serving(Config(store=str(tmp_path))) as http:
        http.push_all(play("team/faulty", faulty=True))
        at = ["--monitor", str(http.base_url)]
        reason = ["--reason", "Ann: known"]
        assert main(["findings", "team/faulty", *at]) == 1
        (shown,) = re.findall(r"id: (slot-replaced-\w+)", capsys.readouterr().out)
        assert main(["ack", "team/faulty", "slot-replaced", *reason, "--hours", "2", *at]) == 0
        assert f"acknowledged {shown} of team/faulty" in capsys.readouterr().out
        assert http.metric("trainvitals_finding_active", run="team/faulty") == 0
        main(["findings", "team/faulty", *at])
        assert "muted: Ann: known" in capsys.readouterr().out
        assert main(["mute", "team/*", "--detector", "expert-*", *reason, "--json", *at]) == 0
        pattern = json.loads(capsys.readouterr().out)
        assert main(["mutes", *at]) == 0
        listed = capsys.readouterr().out
        assert f"{shown}" in listed
        assert "detector expert-*" in listed
        assert main(["mutes", "--remove", pattern["id"], "--json", *at]) == 0
        (left,) = json.loads(capsys.readouterr().out)
        assert main(["mutes", "--remove", left["id"], *at]) == 0
        assert capsys.readouterr().out == "nothing is muted\n"
        assert http.metric("trainvitals_finding_active", run="team/faulty") == 1
        assert main(["ack", "team/faulty", "no-such", *reason, *at]) == 2
        assert "trainvitals findings team/faulty" in capsys.readouterr().err
        assert main(["mutes", "--remove", "no-such", *at]) == 1
        assert main(["mute", "x", "--hours", "0", *reason, *at]) == 2


def test_monitor_that_is_not_there(capsys: Captured) -> None:
    """Nobody listens: one line that says where, exit status 1."""
    assert main(["runs", "--monitor", f"http://127.0.0.1:{unused_port()}"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(
        r"trainvitals: no monitor answers at http://127\.0\.0\.1:\d+ \(.*\)\n", said.err
    )


def test_doctor_finds_all_well(monitor: str, token_file: str, capsys: Captured) -> None:
    """With a monitor that answers and the right token every line is ok, exit status 0."""
    assert main(["doctor", "--monitor", monitor, "--token-file", token_file]) == 0
    text = capsys.readouterr().out
    assert "problem" not in text
    for what in (
        "torch",
        "monitor",
        "version",
        "store",
        "clock",
        "ingest token",
        "read token",
        "spool",
    ):
        assert re.search(rf"^ok +{what}", text, re.MULTILINE), what


def test_doctor_finds_problems(
    monitor: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing read token, an absent monitor and a wrong setting each are a problem with advice, exit status 1."""
    assert main(["doctor", "--monitor", monitor]) == 1
    assert re.search(
        r"^problem read token .*\n +-> Name a file", capsys.readouterr().out, re.MULTILINE
    )
    assert main(["doctor", "--monitor", f"http://127.0.0.1:{unused_port()}"]) == 1
    assert re.search(r"^problem monitor .*\n +-> Start one", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setenv("TRAINVITALS_BUDGET", "7")
    assert main(["doctor"]) == 1
    assert re.search(
        r"^problem settings +TRAINVITALS_BUDGET", capsys.readouterr().out, re.MULTILINE
    )


def test_serve_refuses_to_be_open_to_others(capsys: Captured) -> None:
    """Another address than loopback without tokens is refused with one line that says what to do."""
    assert main(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2  # noqa: S104
    assert "--insecure" in capsys.readouterr().err


def test_serve_on_a_taken_port(tmp_path: Path, capsys: Captured) -> None:
    """A port that somebody has is one line and exit status 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port, "--store", str(tmp_path / "store")]) == 2
    assert re.fullmatch(r"Error: cannot listen on .*\n", capsys.readouterr().err)


def test_serve_ends_cleanly_on_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends the monitor with status 0, and without a traceback."""
    with start("serve", "--port", "0", "--store", str(tmp_path / "store")) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def test_interrupt_of_a_check(tmp_path: Path) -> None:
    """Ctrl-C while a script is checked ends script and monitor, and what was seen is reported: status 130."""
    script = tmp_path / "train.py"
    script.write_text(ENDLESS)
    with start("check", str(script), start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "no findings" in output
    assert re.search(r"interrupted after [1-9]\d* steps$", errors.rstrip())
    assert "trainvitals_monitor" not in errors


def test_sigterm_of_a_check(tmp_path: Path) -> None:
    """SIGTERM, as for a CI job that is cancelled, ends the script too: nothing goes on for nobody."""
    script = tmp_path / "train.py"
    script.write_text(ENDLESS.replace("begun", "{os.getpid()}"))
    with start("check", str(script), start_new_session=True) as process:
        assert process.stdout is not None
        trainer = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.rstrip().endswith("interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(trainer, 0)


def test_output_into_a_closed_pipe(folder: Path) -> None:
    """`trainvitals ... | head` ends without a traceback."""
    with start("replay", str(folder), "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


ENDLESS = """
import os, time, torch
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(10**6):
    optimizer.zero_grad()
    model(torch.randn(4, 2)).square().mean().backward()
    optimizer.step()
    if step == 20:
        print(f"begun", flush=True)
    time.sleep(0.005)
"""


def start(*arguments: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """The command line as a process, its output in pipes; Ctrl-C reaches it, even from tests that run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "trainvitals_monitor.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def unused_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
