"""
Names of runs and attempts: the same on all ranks of a lifetime, another after a restart.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.agent.small_monitor import settings_for
from trainvitals import attempt
from trainvitals.attempt import attempt_key, last_step, read_world, remember_progress, run_name
from trainvitals.progress import Progress

TWO_LOCAL = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
TWO_NODES = {
    "RANK": "0", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "n1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    attempt._attaches.clear()
    attempt._progress.clear()
    yield
    attempt._attaches.clear()
    attempt._progress.clear()


@pytest.fixture
def one_rank_group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed, up, with one rank that will be told that it is two."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def name(environ: dict[str, str], run: str = "", integration: str | None = None) -> str:
    """The run's name in an environment."""
    return run_name(settings_for("f", run=run), integration, environ)


def key(environ: dict[str, str], run: str = "r", given: str = "") -> str:
    """The attempt key in an environment, as in a process of its own."""
    attempt._attaches.clear()
    return attempt_key(settings_for("f", attempt=given), run, environ)


def test_the_run_is_named_by_argument_then_integration_then_scheduler_then_script() -> None:
    """Each is used only when the ones before it are silent."""
    slurm = {"SLURM_JOB_NAME": "llama", "SLURM_JOB_ID": "77"}
    assert name(slurm, run="mine", integration="hf") == "mine"
    assert name(slurm, integration="hf") == "hf"
    assert name(slurm) == "llama-77"
    assert re.fullmatch(r".+-\d{8}-\d{6}-[0-9a-f]{4}", name({}))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_NAME": "a", "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "4"}, "a-1-4"),
        ({"LSB_JOBID": "9"}, "9"),
        ({"PBS_JOBID": "12.head", "PBS_JOBNAME": "tr"}, "tr-12.head"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_NAME": "finetune"}, "finetune"),
        ({"TORCHELASTIC_RUN_ID": "my-rdzv"}, "my-rdzv"),
    ],
)
def test_schedulers_name_their_jobs(environ: dict[str, str], expected: str) -> None:
    """Each scheduler's own variables."""
    assert name(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"TORCHELASTIC_RUN_ID": "none"},
        {"TORCHELASTIC_RUN_ID": "0b2d6c35-5f0e-4a8e-9a3c-2f1f6d1c7b11"},
        {"JOB_NAME": "a CI server's job"},
        {"SLURM_JOB_NAME": "interactive", "SLURM_JOB_ID": "5"},
    ],
)
def test_what_is_no_name_of_one_job_is_not_taken_for_one(environ: dict[str, str]) -> None:
    """Such runs are named by script and time."""
    assert re.search(r"-\d{8}-\d{6}-[0-9a-f]{4}$", name(environ))


def test_the_default_name_does_not_change_within_a_process_and_is_the_launchers() -> None:
    """The time is a process's start, not the clock's: ranks of one launcher say the same."""
    assert name({}) == name({})
    assert name(TWO_LOCAL) == name({**TWO_LOCAL, "RANK": "1"})


_SAY = (
    "from trainvitals.attempt import *; from trainvitals.settings import resolve; s = resolve({}); "
)
_SAY += "r = run_name(s); print(r, attempt_key(s, r))"


def _say(**environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SAY],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_ranks_of_one_launcher_agree_and_processes_alone_differ() -> None:
    """Two real processes, started by this one: as ranks they say the same, alone they do not."""
    assert _say(**TWO_LOCAL) == _say(**{**TWO_LOCAL, "RANK": "1"})
    assert _say() != _say()


def test_a_restart_gives_another_attempt() -> None:
    """Whatever the launcher or scheduler counts up makes a new key."""
    for environ in (TWO_LOCAL, TWO_NODES):
        keys = {
            key({**environ, **more})
            for more in (
                {"SLURM_JOB_ID": "1"},
                {"SLURM_JOB_ID": "2"},
                {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "1"},
                {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "3"},
                {"TORCHELASTIC_RESTART_COUNT": "2"},
                {"MASTER_PORT": "29501"},
            )
        }
        assert len(keys) == 6
    assert key({**TWO_LOCAL, "TORCHELASTIC_RESTART_COUNT": "2"}).startswith("r2-")


def test_nodes_without_a_common_process_agree_by_the_environment() -> None:
    """Across nodes the launchers differ: only what all ranks see counts."""
    assert key(TWO_NODES) == key({**TWO_NODES, "RANK": "9", "LOCAL_RANK": "1"})


def test_an_attempt_that_was_given_is_kept_and_a_second_attach_is_another() -> None:
    """Also within one process, under one run."""
    given = settings_for("f", attempt="mine")
    assert [attempt_key(given, "r", {}) for _ in range(3)] == ["mine", "mine.2", "mine.3"]
    alone = settings_for("f")
    first, second = attempt_key(alone, "other", {}), attempt_key(alone, "other", {})
    assert second == f"{first}.2"


def test_ranks_agree_through_torch_distributeds_store(
    one_rank_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is up, the first rank's word counts, also for ranks that see another environment."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    first, other = key(TWO_NODES), key({**TWO_NODES, "MASTER_PORT": "1"})
    assert first == other
    assert first != key(TWO_NODES, run="another")
    attempt_key(settings_for("f"), "r", TWO_NODES)
    assert attempt_key(settings_for("f"), "r", TWO_NODES).endswith(".2")


def test_a_new_process_group_is_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart with the same environment and no counter is noticed where torch.distributed is up."""
    keys = []
    monkeypatch.setattr(attempt, "_ranks_are_local", lambda _: False)
    for number in range(2):
        dist.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/{number}", rank=0, world_size=1
        )
        with monkeypatch.context() as patch:
            patch.setattr(dist, "get_world_size", lambda: 2)
            keys.append(key(TWO_NODES))
        dist.destroy_process_group()
    assert keys[0] != keys[1]


def test_the_world_is_read_from_the_environment_or_from_torch(
    one_rank_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.distributed is believed before the environment."""
    assert read_world({"RANK": "3", "WORLD_SIZE": "8"}).world_size == 1
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    assert (read_world({"RANK": "3", "WORLD_SIZE": "8"}).rank, read_world({}).world_size) == (3, 1)
    assert read_world({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}).rank == 1
    assert read_world({"RANK": "x", "WORLD_SIZE": "8"}).world_size == 1


def test_steps_are_remembered_per_run() -> None:
    """What a second attach in this process continues from."""
    assert last_step("r", "folder") is None
    remember_progress("r", "folder", Progress.at(7))
    assert last_step("r", "folder") == 7
    assert last_step("other", "folder") is None
    assert last_step("r", "elsewhere") is None
