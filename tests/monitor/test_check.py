"""
`trainvitals check`: unchanged scripts, as a user has them, under the agent with a private monitor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 4))
model.register_buffer("expert_bias", torch.zeros(4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
state = model.state_dict()
for step in range(20):
    x = torch.randn(16, 8)
    loss = torch.nn.functional.cross_entropy(model(x) + model.expert_bias, x[:, :4].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    UPDATE
    print("step", step, flush=True)
torch.save(state, sys.argv[1])
print("done", *sys.argv[2:])
"""
IN_PLACE = "model.expert_bias.add_(0.01 * torch.randn(4))"
REPLACED = "model.expert_bias = model.expert_bias + 0.01 * torch.randn(4)"


def check(tmp_path: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`trainvitals check` on a script of this source, in its folder."""
    (tmp_path / "train.py").write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "trainvitals",
            "check",
            *options,
            "train.py",
            "last.pt",
            "--lr",
            "1",
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_faulty_script(tmp_path: Path) -> None:
    """A script with a fault: exit status 1, the fault named, as pure JSON although the script prints."""
    ended = check(tmp_path, SCRIPT.replace("UPDATE", REPLACED), "--json")
    assert ended.returncode == 1, ended.stderr
    found = json.loads(ended.stdout)
    assert {one["detector"] for one in found} >= {"slot-replaced", "checkpoint-stale"}
    assert all(one["subjects"][0] == "expert_bias" for one in found)
    assert "step 19" in ended.stderr
    assert "1 saves" in ended.stderr


def test_sound_script(tmp_path: Path) -> None:
    """A sound script: exit status 0; its output, what was covered and what was never exercised; nothing left behind."""
    ended = check(tmp_path, SCRIPT.replace("UPDATE", IN_PLACE))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "done --lr 1\n" in ended.stdout
    assert "20 steps, 1 saves" in ended.stdout
    assert "no checkpoint was loaded; the run was not resumed" in ended.stdout
    assert "no findings" in ended.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "last.pt"}


def test_beside_a_good_run(tmp_path: Path) -> None:
    """`--reference`: a changed script is found to part from the frames of a good run; a folder without any is refused."""
    source = SCRIPT.replace("UPDATE", IN_PLACE)
    frames = ["run", "--monitor", "good", "--run", "good", "--budget", "none", "train.py", "a.pt"]
    (tmp_path / "train.py").write_text(source)
    command = [sys.executable, "-m", "trainvitals", *frames]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, capture_output=True)
    ended = check(tmp_path, source.replace("lr=1e-2", "lr=2e-2"), "--reference", "good", "--json")
    assert ended.returncode == 1, ended.stderr
    (found,) = [one for one in json.loads(ended.stdout) if one["evidence"][0]["kind"] != "update"]
    assert (found["detector"], found["first_step"]) == ("differs-from-reference", 1)
    assert "20 steps with those of run 'good'" in ended.stderr
    refused = check(tmp_path, source, "--reference", "nothing")
    assert refused.returncode == 2
    assert "nothing" in refused.stderr


def test_only_so_many_steps(tmp_path: Path) -> None:
    """`--steps N` ends the script after N optimizer steps, and that is no failure."""
    ended = check(tmp_path, SCRIPT.replace("UPDATE", IN_PLACE), "--steps", "5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "step 4\n" in ended.stdout
    assert "step 5\n" not in ended.stdout
    assert "5 steps" in ended.stdout


def test_script_that_fails(tmp_path: Path) -> None:
    """A script that fails by itself: its own traceback, and its exit status said."""
    ended = check(tmp_path, SCRIPT.replace("UPDATE", IN_PLACE) + "sys.exit(7)\n")
    assert ended.returncode == 1
    assert "train.py failed by itself: exit status 7" in ended.stderr
    assert "20 steps" in ended.stdout


def test_script_that_is_killed(tmp_path: Path) -> None:
    """A script that ends by a signal: the signal is named, and what was seen before is judged."""
    killed = (
        REPLACED + "\n    if step == 15: import os, time; time.sleep(3); os.kill(os.getpid(), 9)"
    )
    ended = check(tmp_path, SCRIPT.replace("UPDATE", killed))
    assert ended.returncode == 1
    assert "killed by SIGKILL" in ended.stderr
    assert "slot-replaced" in ended.stdout


@pytest.mark.parametrize(
    "source", ["print('hello')", "import torch\ntorch.nn.Linear(2, 2)(torch.ones(2))"]
)
def test_script_without_a_step(tmp_path: Path, source: str) -> None:
    """No optimizer step: nothing was checked, which is said, and is not success."""
    ended = check(tmp_path, source)
    assert ended.returncode == 2
    assert "made no optimizer step" in ended.stderr


def test_no_such_script(tmp_path: Path) -> None:
    """A script that is not there: one line, exit status 2, and no monitor is started."""
    ended = subprocess.run(
        [sys.executable, "-m", "trainvitals", "check", str(tmp_path / "nothing.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nothing.py" in ended.stderr


def test_module(tmp_path: Path) -> None:
    """`-m` takes the name of a module instead of a script."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "train.py").write_text(SCRIPT.replace("UPDATE", IN_PLACE))
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainvitals",
            "check",
            "--steps",
            "3",
            "-m",
            "package.train",
            "last.pt",
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 steps" in ended.stdout
