"""
`trainvitals run`: real processes, compared with the plain interpreter, and what the agent sent from them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.agent.preloaded import Preloaded
from tests.agent.small_monitor import SmallMonitor
from trainvitals.__main__ import COMMANDS
from trainvitals.following import MAX_AGENTS
from trainvitals.frame import decode
from trainvitals.launch import _split, main
from trainvitals.roots import outermost, owned_by, roots_of
from trainvitals.settings import SETTINGS
from trainvitals_monitor.findings import Severity
from trainvitals_monitor.replay import replay

TRAIN = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def train(steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
"""

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def python(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The interpreter with these words, in the folder of the test."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    return subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env={**inherited, **_ENVIRONMENT, **environ},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


_preloaded: list[Preloaded] = []


@pytest.fixture(scope="module", autouse=True)
def _one_preloaded() -> Iterator[None]:
    yield
    while _preloaded:
        _preloaded.pop().close()


def run(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainvitals run` with these words, torch being imported already; frames go to `frames`."""
    if not _preloaded:
        _preloaded.append(Preloaded())
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    given = {"TRAINVITALS_MONITOR": str(tmp_path / "frames"), **_ENVIRONMENT, **environ}
    return _preloaded[0].run(tmp_path, ["trainvitals", "run", *words], {**inherited, **given})


def run_anew(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own."""
    environ = {"TRAINVITALS_MONITOR": str(tmp_path / "frames")}
    return python(tmp_path, "-m", "trainvitals", "run", *words, **environ)


def write(tmp_path: Path, body: str, name: str = "train.py") -> str:
    """A script that trains, and its name."""
    (tmp_path / name).write_text(TRAIN + textwrap.dedent(body))
    return name


def frames(tmp_path: Path) -> list[tuple[dict[str, Any], Any]]:
    """What went to the folder, in order."""
    paths = sorted((tmp_path / "frames").rglob("*.safetensors"), key=lambda path: path.name)
    return [decode(path.read_bytes()) for path in paths]


def steps(tmp_path: Path) -> list[int]:
    """Steps of which the folder has facts."""
    return [
        int(step)
        for _, tables in frames(tmp_path)
        if "steps" in tables
        for step in tables["steps"]["step"]
    ]


def test_an_unchanged_script_is_watched_and_says_so(tmp_path: Path) -> None:
    """Every step, from the first one on, reaches the folder; one line names what was attached."""
    script = write(tmp_path, "train(5)\nprint('done')")
    done = run(tmp_path, "--run", "mine", "--budget", "none", script)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    header = frames(tmp_path)[0][0]
    assert header["run"] == "mine"
    assert [info["fqn"] for info in header["tensors"][:2]] == ["0.weight", "0.bias"]
    gradients = [
        int(s) for _, t in frames(tmp_path) if "gradients" in t for s in t["gradients"]["step"]
    ]
    assert set(gradients) == {1, 2, 3, 4, 5}
    assert "run mine: Sequential, 4 tensors" in done.stderr


def test_a_monitor_gets_the_frames(tmp_path: Path) -> None:
    """With --monitor URL the same goes over HTTP."""
    with SmallMonitor() as monitor:
        script = write(tmp_path, "train(3)")
        done = run(tmp_path, "--monitor", monitor.url, "--spool", str(tmp_path / "s"), script)
        assert done.returncode == 0, done.stderr
        assert monitor.steps == [1, 2, 3]


def test_the_script_sees_what_it_would_see_without_us(tmp_path: Path) -> None:
    """Arguments, name, path, file, globals, pickling of its own classes: all as under the plain interpreter."""
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "beside.py").write_text("WORD = 'found'")
    script = "sub/train.py"
    (tmp_path / script).write_text(
        textwrap.dedent(
            """
            import atexit, json, pickle, sys
            import beside
            class Own: pass
            names = sorted(name for name in globals() if name.startswith("__"))
            print(json.dumps([sys.argv, __name__, __file__, sys.path[0], beside.WORD, names]))
            print(type(pickle.loads(pickle.dumps(Own()))).__name__)
            atexit.register(lambda: print("at exit:", len(pickle.dumps(Own))))
            """
        )
    )
    words = [script, "--lr", "3", "-m", "--steps", "7"]
    plain, ours = python(tmp_path, *words), run_anew(tmp_path, *words)
    assert plain.returncode == ours.returncode == 0, ours.stderr
    plain_seen, our_seen = (json.loads(done.stdout.splitlines()[0]) for done in (plain, ours))
    assert our_seen[:5] == plain_seen[:5]
    assert {*our_seen[5], "__annotations__"} == {*plain_seen[5], "__annotations__"}
    assert ours.stdout.splitlines()[1:] == plain.stdout.splitlines()[1:]


def test_a_module_runs_as_with_python_m(tmp_path: Path) -> None:
    """`run -m PACKAGE.MODULE` and a package's `__main__`, with relative imports."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("WORD = 'relative'")
    body = "import sys\nfrom .parts import WORD\n"
    body += "print(WORD, sys.argv, __name__, __package__, __spec__.name, sys.path[0])\n"
    for name in ("train.py", "__main__.py"):
        (package / name).write_text(body)
    for module in ("package.train", "package"):
        plain, ours = python(tmp_path, "-m", module, "--x"), run(tmp_path, "-m", module, "--x")
        assert (ours.returncode, ours.stdout) == (0, plain.stdout), ours.stderr
        assert plain.stdout.startswith("relative")
    write(tmp_path, "train(2)", "package/train.py")
    run(tmp_path, "-m", "package.train")
    assert steps(tmp_path) == [1, 2]


def test_an_exception_passes_with_its_own_traceback_and_what_was_seen_is_kept(
    tmp_path: Path,
) -> None:
    """The traceback on stderr is the interpreter's, line for line, and the steps before it are in the folder."""
    script = write(tmp_path, "def f():\n    train(2)\n    raise KeyError('boom')\nf()")
    plain, ours = python(tmp_path, script), run(tmp_path, "--quiet", script)
    assert ours.returncode == plain.returncode == 1
    assert ours.stderr == plain.stderr
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("train(1)\nraise SystemExit(5)", 5),
        ("train(1)\nimport sys; sys.exit('a message')", 1),
        ("train(1)\nraise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal\ntrain(1)\nos.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_every_way_to_end_keeps_its_status_and_the_facts(
    tmp_path: Path, body: str, status: int
) -> None:
    """SystemExit, Ctrl-C and SIGTERM: the status is the script's, and the step is in the folder."""
    done = run(tmp_path, write(tmp_path, body))
    assert done.returncode == status, done.stderr
    assert steps(tmp_path) == [1]


def test_steps_ends_the_script_in_good_order(tmp_path: Path) -> None:
    """--steps 3: three whole steps, the `finally` blocks, status 0."""
    script = write(
        tmp_path,
        "try:\n    train(100)\nexcept Exception:\n    print('swallowed')\nfinally:\n    print('finally')",
    )
    done = run(tmp_path, "--steps", "3", script)
    assert (done.returncode, done.stdout) == (0, "finally\n"), done.stderr
    assert steps(tmp_path) == [1, 2, 3]
    assert "ended after 3 steps" in done.stderr


def test_a_script_that_never_steps_is_told(tmp_path: Path) -> None:
    """Nothing was attached, and one line says why."""
    assert "no optimizer step was seen" in run(tmp_path, write(tmp_path, "train(0)")).stderr
    (tmp_path / "plain.py").write_text("print(1)")
    assert "torch was never imported" in run_anew(tmp_path, "plain.py").stderr
    script = write(
        tmp_path,
        "p = torch.ones(2, requires_grad=True)\no = torch.optim.SGD([p], lr=.1)\np.sum().backward(); o.step()",
    )
    done = run(tmp_path, script)
    assert "no live model owns what SGD trains" in done.stderr
    assert done.returncode == 0


def test_a_failure_to_attach_does_not_reach_the_script(tmp_path: Path) -> None:
    """A module whose methods raise costs us the run, and the script nothing; --steps still ends it."""
    script = write(
        tmp_path,
        "class Broken(torch.nn.Linear):\n"
        "    def parameters(self, recurse=True): raise RuntimeError('its own')\n"
        "broken = Broken(2, 2)\ntrain(2); print('trained'); train(100)",
    )
    done = run(tmp_path, "--steps", "3", script)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "attaching failed (RuntimeError: its own)" in done.stderr
    assert "ended after 3 steps" in done.stderr


def test_settings_that_the_script_spoils_end_nothing(tmp_path: Path) -> None:
    """They were right when it began; why nothing is watched is said."""
    script = write(
        tmp_path,
        "import os; os.environ['TRAINVITALS_BUDGET'] = os.environ['TRAINVITALS_QUIET'] = '7'\n"
        "train(2); print('trained')",
    )
    done = run(tmp_path, script)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "nothing was attached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_was_never_initialised_is_passed_over(tmp_path: Path) -> None:
    """Such modules exist for a moment while others are unpickled or built."""
    script = write(tmp_path, "raw = torch.nn.Linear.__new__(torch.nn.Linear)\ntrain(2)")
    assert run(tmp_path, script).returncode == 0
    assert steps(tmp_path) == [1, 2]


def test_a_script_that_attaches_itself_is_left_to_it(tmp_path: Path) -> None:
    """Its own attach() counts, with our options as its defaults."""
    script = write(
        tmp_path, "import trainvitals\nwith trainvitals.attach(model, run='own'):\n    train(2)\n"
    )
    done = run(tmp_path, "--budget", "none", script)
    assert done.returncode == 0, done.stderr
    assert {header["run"] for header, _ in frames(tmp_path)} == {"own"}
    assert steps(tmp_path) == [1, 2]
    assert "looking at everything" in done.stderr
    assert "nothing was attached" not in done.stderr


def test_models_of_a_gan_are_attached_together_and_later_ones_by_themselves(tmp_path: Path) -> None:
    """All models of the optimizers that are alive at the first step are one run; what comes later is another."""
    script = write(
        tmp_path,
        """
        other = torch.nn.Linear(3, 3)
        other_optimizer = torch.optim.Adam(other.parameters())
        train(2)
        other(torch.ones(3)).sum().backward(); other_optimizer.step()
        late = torch.nn.Linear(2, 2)
        late_optimizer = torch.optim.SGD(late.parameters(), lr=.1)
        late(torch.ones(2)).sum().backward(); late_optimizer.step()
        train(1)
        """,
    )
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert "Sequential and Linear, 6 tensors" in done.stderr
    assert "-2: Linear, 2 tensors" in done.stderr
    names = {header["run"] for header, _ in frames(tmp_path)}
    assert len(names) == 2
    assert max(names) == f"{min(names)}-2"


ONE_AFTER_THE_OTHER = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(256, 8)
def make():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
def train(model, optimizer):
    for batch in x.split(16):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), batch[:, :3].argmax(1)).backward()
        optimizer.step()
models = [make() for _ in range(3)]
optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
for model, optimizer in zip(models, optimizers):
    train(model, optimizer)
first = models.pop(0)
del first, model, optimizer, optimizers[0]
for _ in range(2):
    later = make()
    train(later, torch.optim.Adam(later.parameters(), 1e-2))
train(models[0], optimizers[0])
"""


def test_models_that_are_trained_one_after_the_other(tmp_path: Path) -> None:
    """An ensemble and two trials: nothing is found of those that wait, nor of those that are gone."""
    (tmp_path / "train.py").write_text(ONE_AFTER_THE_OTHER)
    done = run(tmp_path, "--budget", "none", "train.py")
    assert "3 Sequential, 27 tensors (0 watched), 3 Adam" in done.stderr, done.stderr
    judged = replay(tmp_path / "frames")
    assert len(judged) == 3
    found = [one for each in judged for one in each.findings if one.severity is not Severity.INFO]
    assert found == []
    fqns = {info["fqn"] for header, _ in frames(tmp_path) for info in header["tensors"]}
    assert {fqn.partition(".")[0] for fqn in fqns if fqn[0] == "m"} == {
        "model0",
        "model1",
        "model2",
    }


PHASES = """
import torch
def phase(state=None):
    model = torch.nn.Linear(4, 1)
    if state: model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=.1)
    for _ in range(3):
        optimizer.zero_grad(); model(torch.ones(2, 4)).sum().backward(); optimizer.step()
    return {key: value.clone() for key, value in model.state_dict().items()}
"""


def test_weights_that_are_loaded_into_a_new_model_go_on_with_the_run(tmp_path: Path) -> None:
    """A second training in one process: an attempt of the same run if it loads weights, else another run."""
    (tmp_path / "train.py").write_text(PHASES + "phase(phase())\nphase()\n")
    done = run(tmp_path, "train.py")
    assert done.returncode == 0, done.stderr
    seen = {(header["run"], header["attempt"]) for header, _ in frames(tmp_path)}
    assert sorted(Counter(run for run, _ in seen).values()) == [1, 2]


def test_trials_are_followed_up_to_a_bound(tmp_path: Path) -> None:
    """A program that makes models for ever costs a bounded number of agents; the rest is counted."""
    (tmp_path / "train.py").write_text(PHASES + "for _ in range(12): phase()\n")
    done = run(tmp_path, "train.py")
    assert done.returncode == 0, done.stderr
    assert len({header["run"] for header, _ in frames(tmp_path)}) == MAX_AGENTS
    assert f"not watched: what {12 - MAX_AGENTS} later optimizer" in done.stderr


def test_master_weights_stand_for_the_model(tmp_path: Path) -> None:
    """Megatron-LM's optimizers hold fp32 clones; each parameter has its own as `main_param`."""
    script = write(
        tmp_path,
        """
        model.to(torch.bfloat16)
        for parameter in model.parameters(): parameter.main_param = parameter.detach().float()
        optimizer = torch.optim.SGD([p.main_param for p in model.parameters()], lr=0.1)
        for _ in range(2):
            for parameter in model.parameters(): parameter.main_param.grad = torch.ones_like(parameter.main_param)
            optimizer.step()
            for parameter in model.parameters(): parameter.data.copy_(parameter.main_param)
        """,
    )
    done = run(tmp_path, script)
    assert "Sequential, 4 tensors" in done.stderr, done.stderr
    assert steps(tmp_path) == [1, 2]


def test_phantom_steps_attach_nothing(tmp_path: Path) -> None:
    """get_optimizer_state_dict steps a fresh optimizer with lr 0: that is no first step."""
    script = write(
        tmp_path,
        """
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
        optimizer = torch.optim.Adam(model.parameters())
        get_optimizer_state_dict(model, optimizer)
        """,
    )
    assert "no optimizer step was seen" in run(tmp_path, script).stderr


def test_a_compiled_step_is_watched_and_ended(tmp_path: Path) -> None:
    """torch.compile(optimizer.step): hooks fire, and SystemExit gets out of the compiled call."""
    script = write(
        tmp_path,
        """
        step = torch.compile(optimizer.step, backend="eager")
        for _ in range(10):
            model(torch.ones(2, 4)).square().mean().backward(); step()
        """,
    )
    done = run(tmp_path, "--steps", "2", script)
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path) == [1, 2]


def test_a_load_before_the_first_step_is_seen(tmp_path: Path) -> None:
    """Weights that the script loads before it trains are a load of the attached model."""
    script = write(
        tmp_path,
        "model.load_state_dict(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)).state_dict())\ntrain(1)",
    )
    assert run(tmp_path, script).returncode == 0
    events = [event for header, _ in frames(tmp_path) for event in header["events"]]
    assert [event["op"] for event in events if event["kind"] == "checkpoint"] == ["load"]


def test_settings_of_the_environment_made_before_importing_torch_count(tmp_path: Path) -> None:
    """Nothing of ours imports torch before the script does."""
    (tmp_path / "early.py").write_text(
        "import sys\nassert 'torch' not in sys.modules\nimport os\nos.environ['OMP_NUM_THREADS'] = '2'\n"
        "import torch\nassert torch.get_num_threads() == 2, torch.get_num_threads()\n"
    )
    done = run_anew(tmp_path, "early.py")
    assert done.returncode == 0, done.stderr


def test_a_forked_trainer_is_watched(tmp_path: Path) -> None:
    """Training and saves in a forked child of multiprocessing reach the folder from there."""
    script = write(
        tmp_path,
        """
        import io, multiprocessing
        def work():
            train(3)
            torch.save(model.state_dict(), io.BytesIO())
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start(); child.join()
        assert child.exitcode == 0
        """,
    )
    done = run(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert "1 saves" in done.stderr
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.distributed
def test_torchrun_starts_it_on_every_rank(tmp_path: Path) -> None:
    """Two ranks under torchrun: one run, one attempt, both ranks' frames, one attach line."""
    (tmp_path / "ddp.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))\n"
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad(); model(torch.ones(2, 4)).sum().backward(); optimizer.step()\n"
        "dist.barrier(); dist.destroy_process_group()\n"
    )
    done = python(
        tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "trainvitals", "run", "ddp.py", TRAINVITALS_MONITOR=str(tmp_path / "frames"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    headers = [header for header, _ in frames(tmp_path)]
    assert {header["rank"] for header in headers} == {0, 1}
    assert len({(header["run"], header["attempt"]) for header in headers}) == 1
    assert sorted(steps(tmp_path)) == [1, 1, 2, 2, 3, 3]
    assert done.stderr.count("DistributedDataParallel") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "7", "x.py"], "--budget '7'"),
        (["--nonsense", "1", "x.py"], "unrecognized"),
        (["--steps", "-1", "x.py"], "--steps"),
        (["--monitor", "ftp://x", "x.py"], "monitor"),
        (["--monitor", "http://x:1", "--token-file", "/none", "x.py"], "token_file"),
        (["--contract", "/none.toml", "x.py"], "contract '/none.toml' can't be read"),
        ([], "SCRIPT is missing"),
        (["-m"], "MODULE is missing"),
    ],
)
def test_asked_wrongly_is_said_before_anything_runs(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2 and a sentence that names the option."""
    for setting in SETTINGS:
        monkeypatch.setenv(setting.environment, "x")  # so that what main() sets is taken back
        monkeypatch.delenv(setting.environment)
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert said in capsys.readouterr().err


def test_a_contract_is_found_from_another_folder(tmp_path: Path) -> None:
    """The script changes its folder before the first step; the file is the one that was meant at the start."""
    (tmp_path / "c.toml").write_text("total_steps = 3")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "x.py").write_text(f"import os\nos.chdir('elsewhere')\n{TRAIN}\ntrain(3)")
    folder = str(tmp_path / "frames")
    done = python(
        tmp_path, "-m", "trainvitals", "run", "--contract", "c.toml", "--monitor", folder, "x.py"
    )
    assert done.returncode == 0, done.stderr
    contracts = [header["contract"] for header, _ in frames(tmp_path)]
    assert contracts[0] == {"total_steps": 3}


@pytest.mark.parametrize("words", [["none.py"], ["-m", "no_such_module"]])
def test_a_script_that_is_not_there_fails_as_in_python(tmp_path: Path, words: list[str]) -> None:
    """The interpreter's status, and its kind of words."""
    plain, ours = python(tmp_path, *words), run(tmp_path, *words)
    assert ours.returncode == plain.returncode
    assert plain.stderr.strip() in ours.stderr


def test_options_end_where_the_script_begins() -> None:
    """What comes after SCRIPT is the script's, whatever it looks like."""
    assert _split(["--run", "a", "--quiet", "t.py", "--run", "b"]) == (
        ["--run", "a", "--quiet"],
        ["t.py", "--run", "b"],
    )
    assert _split(["--run=a", "-m", "pkg", "-x"]) == (["--run=a"], ["-m", "pkg", "-x"])
    assert _split(["--", "-odd.py"]) == ([], ["-odd.py"])


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """--help is made from settings.py."""
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{setting.name.replace('_', '-')}" in text for setting in SETTINGS)
    assert "torchrun" in text


def test_the_command_lists_all_commands_and_the_version(tmp_path: Path) -> None:
    """`trainvitals --help` names the agent's and the monitor's commands, `--version` the version."""
    done = python(tmp_path, "-m", "trainvitals", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name, _ in COMMANDS)
    assert python(tmp_path, "-m", "trainvitals", "--version").stdout.startswith("trainvitals 0.")


@pytest.mark.skipif(not importlib.util.find_spec("click"), reason="the monitor is not installed")
def test_the_listed_commands_are_the_monitors() -> None:
    """The list in `trainvitals --help` and the monitor's own command line agree."""
    from trainvitals_monitor.cli import cli

    assert {name for name, _ in COMMANDS} == {*cli.commands, "run"}


def test_without_the_monitor_one_line_says_what_to_install(tmp_path: Path) -> None:
    """Where the extra is missing, `trainvitals serve` ends with 2 and the pip command."""
    (tmp_path / "click.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'click'\", name='click')"
    )
    done = python(tmp_path, "-m", "trainvitals", "serve")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'trainvitals[monitor]'" in done.stderr


def test_roots_are_the_outermost_modules_that_own_parameters() -> None:
    """A wrapper stands for what it wraps, a bystander is left out, a shared trunk keeps both its heads."""
    trunk, left, right = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(2, 1)
    actor, critic = nn.Sequential(trunk, left), nn.Sequential(trunk, right)
    bystander = nn.Sequential(nn.Linear(3, 3))
    parameters = {*actor.parameters(), *critic.parameters()}
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert {id(root) for root in roots_of([optimizer])} == {id(actor), id(critic)}
    assert not owned_by([bystander], optimizer)
    model = nn.Linear(4, 4)
    compiled = torch.compile(model, backend="eager")
    alone = torch.optim.SGD(model.parameters(), lr=0.1)
    assert [root is compiled for root in roots_of([alone])] == [True]


def test_a_containers_optimizers_are_not_counted_beside_it() -> None:
    """Lookahead and torchtitan's container step others: only the outer one is waited for."""

    class Container(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__([p for group in inner.param_groups for p in group["params"]], {})
            self.optimizers = [inner]

        def step(self, closure: Any = None) -> Any:
            self.optimizers[0].step()

    inner = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    outer = Container(inner)
    assert outermost([inner, outer, inner]) == [outer]
