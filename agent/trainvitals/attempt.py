"""
Which run this is, which attempt of it, and which rank: from the launcher, the scheduler, or the processes themselves.

All ranks must come to the same two names without a collective. Where torch.distributed is up, they agree through its
store: one `compare_set` each, which waits for nobody. Where it is not, the environment and the launcher's process tell
them. A restart must come to another attempt key: frames under a key that was used before would count as duplicates
(the monitor notices by the header's `process`, answers 409, and the sender says so).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trainvitals.progress import Progress
from trainvitals.settings import Settings

_IMPORTED_AT = time.time()
_RANK_VARIABLES = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
# What names a job, by scheduler: the first that is set counts.
_JOB_VARIABLES = (
    ("SLURM_JOB_NAME", "SLURM_JOB_ID"),
    ("PBS_JOBNAME", "PBS_JOBID"),
    ("LSB_JOBNAME", "LSB_JOBID"),
    ("JOB_NAME", "JOB_ID"),
    ("", "KUBERNETES_JOB_NAME"),
)
_INTERACTIVE = ("interactive", "bash", "sh", "zsh")
"""Slurm's names of a job in which a person starts one program after the other: that is not one run."""
# What differs from one lifetime to the next under one launcher or scheduler.
_LIFETIME_VARIABLES = (
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
)

_attaches: Counter[str] = Counter()
_progress: dict[tuple[str, str], Progress] = {}


@dataclass(frozen=True)
class World:
    """This process's place among the ranks."""

    rank: int = 0
    world_size: int = 1


def read_world(environ: Mapping[str, str] = os.environ) -> World:
    """From torch.distributed if it is up, else from the launcher's environment; a process alone is rank 0 of 1."""
    distributed = _distributed()
    if distributed is not None:
        return World(distributed.get_rank(), distributed.get_world_size())
    for rank, world_size in _RANK_VARIABLES:
        if environ.get(rank, "").isdecimal() and environ.get(world_size, "").isdecimal():
            return World(int(environ[rank]), max(int(environ[world_size]), int(environ[rank]) + 1))
    return World()


def run_name(
    settings: Settings, integration: str | None = None, environ: Mapping[str, str] = os.environ
) -> str:
    """The run's name: argument or environment (both are in `settings`), integration, scheduler's job, script and time."""
    given = settings.run or integration or _job(environ)
    if given:
        return given.strip()
    launcher = _launcher(environ)
    started = time.strftime("%Y%m%d-%H%M%S", time.localtime(_started_at(launcher) or _IMPORTED_AT))
    # Two processes may start in one second, and must not become one run.
    return _agreed("run", f"{_script()}-{started}-{_hash(_process_word(launcher))[:4]}")


def attempt_key(settings: Settings, run: str, environ: Mapping[str, str] = os.environ) -> str:
    """
    The key of this lifetime of the run's process group, the same on all ranks; call it once per attach.

    An attempt given as a setting is kept; a second attach under the same run in this process adds `.2`.
    """
    _attaches[run] += 1
    again = f".{_attaches[run]}" if _attaches[run] > 1 else ""
    if settings.attempt:
        return settings.attempt + again
    restarts = (
        environ.get("TORCHELASTIC_RESTART_COUNT") or environ.get("SLURM_RESTART_COUNT") or "0"
    )
    if read_world(environ).world_size == 1:
        lifetime = _process_word(os.getpid())
    else:
        lifetime = _agreed(f"attempt{again}/{run}", _shared_lifetime(environ))
    return f"r{restarts}-{_hash(lifetime)}{again}"


def remember_progress(run: str, monitor: str, progress: Progress) -> None:
    """The run, as this monitor (or folder) knows it, is this far in this process."""
    _progress[run, monitor] = progress


def last_step(run: str, monitor: str) -> int | None:
    """How far the run came in this process; None if this monitor (or folder) has not seen it from here."""
    progress = _progress.get((run, monitor))
    return None if progress is None else progress.step


def _job(environ: Mapping[str, str]) -> str:
    """The scheduler's job, or torchrun's --rdzv-id; empty if there is none."""
    for name, number in _JOB_VARIABLES:
        if environ.get(number) and environ.get(name) not in _INTERACTIVE:
            task = environ.get("SLURM_ARRAY_TASK_ID", "") if number == "SLURM_JOB_ID" else ""
            return "-".join(part for part in (environ.get(name, ""), environ[number], task) if part)
    if environ.get("KUBERNETES_SERVICE_HOST") and environ.get("JOB_NAME"):
        return environ[
            "JOB_NAME"
        ]  # anywhere else JOB_NAME may be a CI server's, the same for every run
    elastic = environ.get("TORCHELASTIC_RUN_ID", "none")
    return elastic if elastic != "none" and not _is_random(elastic) else ""


def _is_random(run_id: str) -> bool:
    """torchrun --standalone makes a UUID up: no name for people, and another one at each launch."""
    parts = run_id.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12]


def _shared_lifetime(environ: Mapping[str, str]) -> str:
    """What all ranks of one lifetime see alike, without talking to each other."""
    parts = [_job(environ), *(environ.get(name, "") for name in _LIFETIME_VARIABLES)]
    if _ranks_are_local(environ):
        parts.append(_process_word(_launcher(environ)))
    return "|".join(parts)


def _ranks_are_local(environ: Mapping[str, str]) -> bool:
    """Whether all ranks are children of one process on this machine."""
    if multiprocessing.parent_process() is not None:
        return True
    local = environ.get("LOCAL_WORLD_SIZE") or environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    return local == str(read_world(environ).world_size)


def _launcher(environ: Mapping[str, str]) -> int:
    """The process that stands for the job: the launcher if there are several ranks, so that all name the same one."""
    if read_world(environ).world_size == 1:
        return os.getpid()
    parent = multiprocessing.parent_process()
    return parent.pid if parent is not None and parent.pid is not None else os.getppid()


def _process_word(pid: int) -> str:
    """A process, told from another that gets the same pid later, and from those of other machines."""
    return f"{os.uname().nodename}:{pid}:{_started_at(pid) or (_IMPORTED_AT if pid == os.getpid() else '')}"


def _started_at(pid: int) -> float | None:
    """When a process started, Unix seconds; None where /proc is not there to say (macOS)."""
    try:
        # The second field, the program's name in parentheses, may hold anything: count from its end.
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime ")
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _script() -> str:
    """The script's name, or the module's for `python -m`."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and getattr(spec, "name", None):
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None) or (sys.argv[0] if sys.argv else "")
    return Path(path).stem or "python"


def _agreed(what: str, mine: str) -> str:
    """What the first rank to come here said, through torch.distributed's store; mine where there is none."""
    distributed = _distributed()
    if distributed is None or distributed.get_world_size() == 1:
        return mine
    try:
        # No public way to the default group's store. A key that is not there counts as empty, so the first rank's
        # word is set, and every rank gets the same one back. Nobody waits for another rank.
        store = distributed.distributed_c10d._get_default_store()
        word = mine if what == "run" else f"{mine}|{secrets.token_hex(8)}"
        return str(store.compare_set(f"trainvitals/{what}", "", word).decode())
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, UnicodeDecodeError):
        return mine


def _distributed() -> ModuleType | None:
    """torch.distributed, if somebody has imported and initialised it."""
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized():
        return None
    return module


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
