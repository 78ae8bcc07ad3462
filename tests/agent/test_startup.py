"""
The start-up hook, in fresh environments into which the package was installed: as a wheel, and editable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch._inductor import compile_worker

from tests.agent.test_launch import TRAIN, frames, steps
from trainvitals import arrival, startup
from trainvitals.parts import Part, part_of, trains

ROOT = Path(__file__).parents[2]
LIBRARIES = Path(torch.__file__).parents[1]
COMPILE_WORKER = str(Path(str(compile_worker.__file__)).with_name("__main__.py"))


class Environment:
    """A virtual environment that has our package, and sees the libraries of the one that tests run in."""

    def __init__(self, folder: Path, source: Sequence[str]) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = str(folder / "bin" / "python")
        self.site = next((folder / "lib").glob("python*/site-packages"))
        (self.site / "libraries.pth").write_text(str(LIBRARIES))
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", *source)

    def pip(self, *words: str) -> None:
        """The tests' own pip, working on this environment."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "--quiet", *words]
        subprocess.run(
            [*command, "--disable-pip-version-check"], check=True, env=_clean(), timeout=120
        )

    def run(self, folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Its interpreter with these words; frames go to `frames`."""
        given = {"TRAINVITALS_MONITOR": "frames", "TRAINVITALS": "1", **environ}
        return subprocess.run(
            [self.python, *words], cwd=folder, env={**_clean(), **given},
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip


def _clean() -> dict[str, str]:
    """The environment without what leads to our sources, or sets anything of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINVITALS", "PYTHONPATH"))}
    return {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, str(ROOT), "-w", str(folder)], check=True, env=_clean(), timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel in it."""
    return Environment(tmp_path_factory.mktemp("installed") / "venv", [str(wheel)])


def script(tmp_path: Path, body: str) -> str:
    """A program, and its name."""
    (tmp_path / "train.py").write_text(TRAIN + body)
    return "train.py"


def test_a_wheel_brings_the_hook_and_takes_it_away(wheel: Path, tmp_path: Path) -> None:
    """Watched where the variable is set and not where it is off; gone with the package, and quiet when that is broken."""
    environment = Environment(tmp_path / "venv", [str(wheel)])
    name = script(tmp_path, "train(3)")
    off = environment.run(tmp_path, name, TRAINVITALS="0")
    assert (off.returncode, off.stderr, frames(tmp_path)) == (0, "", [])
    done = environment.run(tmp_path, name)
    assert done.returncode == 0
    assert "Sequential, 4 tensors" in done.stderr
    assert steps(tmp_path) == [1, 2, 3]
    shutil.move(environment.site / "trainvitals", tmp_path / "aside")
    broken = environment.run(tmp_path, "-c", "print('runs')")
    assert (broken.returncode, broken.stdout) == (0, "runs\n")
    assert broken.stderr.count("\n") == 1
    assert "nothing is watched: ModuleNotFoundError" in broken.stderr
    unasked = environment.run(tmp_path, "-c", "print('runs')", TRAINVITALS="")
    assert (unasked.stdout, unasked.stderr) == ("runs\n", "")
    shutil.move(tmp_path / "aside", environment.site / "trainvitals")
    environment.pip("uninstall", "--yes", "trainvitals")
    assert not list(environment.site.glob("*trainvitals*"))
    assert environment.run(tmp_path, "-c", "print('runs')").stderr == ""


def test_an_editable_install_brings_it_too(tmp_path: Path) -> None:
    """Beside the path file that leads to the sources, and behind it."""
    environment = Environment(tmp_path / "venv", ["--editable", str(ROOT)])
    done = environment.run(tmp_path, script(tmp_path, "train(2)"))
    assert "Sequential, 4 tensors" in done.stderr
    assert steps(tmp_path) == [1, 2]
    environment.pip("uninstall", "--yes", "trainvitals")
    assert not list(environment.site.glob("*trainvitals*.pth"))


def test_nothing_is_imported_before_the_program_asks_for_torch(
    installed: Environment, tmp_path: Path
) -> None:
    """Without the variable nothing of ours at all; with it, what waits for torch."""
    code = "import sys; print(*(name for name in sys.modules if name.partition('.')[0] in {})"
    code = code.format("('trainvitals', 'numpy', 'torch', 'safetensors'))")
    assert installed.run(tmp_path, "-c", code, TRAINVITALS="").stdout == "\n"
    waiting = {"trainvitals", "trainvitals.startup", "trainvitals.parts", "trainvitals.awaited"}
    assert set(installed.run(tmp_path, "-c", code).stdout.split()) == waiting


def test_a_program_without_optimizers_is_not_spoken_to(
    installed: Environment, tmp_path: Path
) -> None:
    """One that made an optimizer and never stepped is; a wrong setting is said, and the training goes on."""
    assert installed.run(tmp_path, "-c", "import torch").stderr == ""
    idle = installed.run(tmp_path, script(tmp_path, "train(0)"))
    assert "no optimizer step was seen in this process: nothing was attached" in idle.stderr
    wrong = installed.run(
        tmp_path, script(tmp_path, "train(2); print('trained')"), TRAINVITALS_BUDGET="7"
    )
    assert (wrong.returncode, wrong.stdout) == (0, "trained\n")
    assert "nothing is watched: TRAINVITALS_BUDGET='7'" in wrong.stderr
    assert frames(tmp_path) == []


def test_the_programs_own_agent_comes_first(installed: Environment, tmp_path: Path) -> None:
    """attach() to a model that the hook has attached to is no error: the hook's agent gives way, and steps go on."""
    body = (
        "import trainvitals\ntrain(2)\nagent = trainvitals.attach(model)\ntrain(2)\nagent.close()"
    )
    done = installed.run(tmp_path, script(tmp_path, body))
    assert done.returncode == 0, done.stderr
    assert sorted(steps(tmp_path)) == [1, 2, 3, 4]


def test_trainvitals_run_is_enough(installed: Environment, tmp_path: Path) -> None:
    """Under `trainvitals run` the hook stays out: one agent; and it comes to what the script spawns."""
    body = """
    if __name__ == "__main__":
        import torch.multiprocessing
        train(1)
        torch.multiprocessing.spawn(work)
    """
    work = "def work(rank):\n    train(3)\n"
    name = script(tmp_path, work + body.replace("\n    ", "\n"))
    done = installed.run(tmp_path, "-m", "trainvitals", "run", name, TRAINVITALS="")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Sequential, 4 tensors") == 2
    assert sorted(steps(tmp_path)) == [1, 1, 2, 3]


LOADING = """
import sys
from torch.utils.data import DataLoader, Dataset
class Ones(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        return torch.tensor([float("trainvitals.arrival" in sys.modules)] * 4)
if __name__ == "__main__":
    for start in ("fork", "spawn"):
        loader = DataLoader(Ones(), batch_size=2, num_workers=2, multiprocessing_context=start)
        print(start, sum(float(batch.sum()) for batch in loader))
    train(2)
"""


def test_workers_that_load_data_are_left_alone(installed: Environment, tmp_path: Path) -> None:
    """A spawned one imports nothing of the agent's; forked ones share what is there, silently."""
    done = installed.run(tmp_path, script(tmp_path, LOADING))
    assert done.returncode == 0, done.stderr
    assert "spawn 0.0" in done.stdout
    assert done.stderr.count("Sequential") == 1
    assert steps(tmp_path) == [1, 2]


RANKS = """
import torch, torch.distributed as dist
def work(rank):
    if rank >= 0:
        dist.init_process_group("gloo", init_method="file://" + __file__ + ".store", rank=rank, world_size=2)
    else:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(3):
        optimizer.zero_grad()
        model(torch.full((2, 4), dist.get_rank() + 1.0)).square().mean().backward()
        optimizer.step()
    dist.barrier()
    dist.destroy_process_group()
if __name__ == "__main__":
    import os
    if "RANK" in os.environ:
        work(-1)
    else:
        torch.multiprocessing.spawn(work, nprocs=2)
"""


@pytest.mark.distributed
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]])
def test_ranks_are_one_run_however_they_were_started(
    launcher: list[str], installed: Environment, tmp_path: Path
) -> None:
    """Spawned by the script, or by torchrun, which is not attached to; one line names the number of ranks."""
    (tmp_path / "ranks.py").write_text(RANKS)
    words = [*launcher, "--standalone", "ranks.py"] if launcher else ["ranks.py"]
    done = installed.run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    headers = [header for header, _ in frames(tmp_path)]
    assert {header["rank"] for header in headers} == {0, 1}
    assert len({(header["run"], header["attempt"]) for header in headers}) == 1
    assert sorted(steps(tmp_path)) == [1, 1, 2, 2, 3, 3]
    assert done.stderr.count("2 ranks") == 1
    assert "nothing was attached" not in done.stderr


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("python train.py --pip", Part.TRAINER),
        ("python -u -X dev -W error train.py", Part.TRAINER),
        ("python -m torchtitan.train", Part.TRAINER),
        ("python -um torch.distributed.run train.py", Part.LAUNCHER),
        ("python -mtorch.distributed.launch train.py", Part.LAUNCHER),
        ("python /usr/bin/torchrun train.py", Part.LAUNCHER),
        ("python /usr/bin/accelerate launch train.py", Part.LAUNCHER),
        ("python -m accelerate.commands.launch train.py", Part.LAUNCHER),
        ("python /venv/bin/trainvitals serve", Part.LAUNCHER),
        ("python -m trainvitals_monitor.cli serve", Part.LAUNCHER),
        ("python -m trainvitals.train_me.py", Part.LAUNCHER),
        ("python -m pip install torch", Part.BYSTANDER),
        ("python /venv/bin/pip3.11 install torch", Part.BYSTANDER),
        (f"python {COMPILE_WORKER} --kind=fork --workers=2", Part.BYSTANDER),
        ("python", Part.TRAINER),
        ("python -", Part.TRAINER),
        ("python -m ipykernel_launcher -f x.json", Part.TRAINER),
    ],
)
def test_parts_by_command(command: str, part: Part) -> None:
    """What a process is, by the words that it was started with."""
    assert part_of(command.split()) is part


def test_children_of_multiprocessing() -> None:
    """Their command says that they are children; what for, the function that they are to run."""
    spawned = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)"
    assert part_of(["python", "-c", spawned, "--multiprocessing-fork"]) is Part.CHILD
    tracker = "from multiprocessing.resource_tracker import main;main(3)"
    assert part_of(["python", "-c", tracker]) is Part.BYSTANDER
    assert part_of(["python", "-c", "import train; train.main()"]) is Part.TRAINER
    from torch.utils.data._utils.worker import _worker_loop

    assert not trains(_worker_loop)
    assert trains(test_parts_by_command)
    assert trains(None)


@pytest.mark.parametrize("error", [ImportError("no safetensors"), ValueError("another numpy")])
def test_nothing_of_ours_is_raised_into_the_import_of_torch(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever keeps us from arriving is one line."""

    def broken() -> None:
        raise error

    monkeypatch.setattr(arrival, "arrive", broken)
    startup._torch_is_here("torch")
    told = capsys.readouterr().err
    assert told == f"trainvitals: TRAINVITALS is set, but nothing is watched: {error!r}\n"
