"""
Runs a trainer's program as its user would, and asks the monitor's engine what it saw.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trainvitals.frame import decode
from trainvitals_monitor.findings import Finding, Severity
from trainvitals_monitor.replay import replay

PROGRAMS = Path(__file__).parent / "programs"
HOOK = Path(__file__).parents[2] / "agent" / "trainvitals_startup.pth"
LIMIT_S = 400


@dataclass(frozen=True)
class Ran:
    """What came of a program: findings above info, the steps seen (ours, of rank 0) and the losses told, and what it printed.
    `meshes`: what each rank said of its place; `layouts`: by FQN, what rank 0 said of its part.
    """

    findings: list[Finding]
    runs: list[str]
    meshes: dict[int, str]
    layouts: dict[str, str]
    steps: list[int]
    steps_of: dict[int, list[int]]
    """The same by rank."""
    num_losses: int
    offsets: set[int | None]
    output: str

    @property
    def found(self) -> list[str]:
        """Names of the detectors that found something above info."""
        return [finding.detector for finding in self.findings]


def needs(*libraries: str) -> None:
    """Skip where a library is not installed; where REQUIRE_TRAINERS is set (CI), fail."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("REQUIRE_TRAINERS"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)} (make test TRAINERS=1 installs what trainers need)"
        )


def attached(ran: Ran) -> list[str]:
    """What each attach line says between the run's name and the budget; the program may have a logging of its own."""
    return re.findall(r"trainvitals(?: - INFO -|:) run \S+: (.*?); looking at", ran.output)


def run_program(
    program: Path | str,
    *arguments: str,
    folder: Path,
    launcher: Sequence[str] = (),
    steps: int = 0,
    is_switched_on: bool = False,
    ranks: int = 1,
    prelude: str = "",
) -> Ran:
    """
    `python program`, or `python -m program` if it is a module's name, in its own folder, looking at everything; with
    `launcher` words before it, such as `-m trainvitals run`; with several ranks by torchrun.

    `is_switched_on`: with TRAINVITALS=1, and the start-up hook as if it were installed (tests/agent/test_startup.py
    installs it). `prelude`: a line that each interpreter runs before its program.
    """
    if ranks > 1:
        launcher = ("-m", "torch.distributed.run", f"--nproc-per-node={ranks}",
                    f"--master-port={_free_port()}", *launcher)  # fmt: skip
    frames = folder / "frames"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRAINVITALS_MONITOR": str(frames),
        "TRAINVITALS_BUDGET": "none",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join([str(PROGRAMS), os.environ.get("PYTHONPATH", "")]),
    }
    if is_switched_on:
        environment["TRAINVITALS"] = "1"
    if is_switched_on or prelude:
        site = _site(folder / "site", has_hook=is_switched_on, prelude=prelude)
        environment["PYTHONPATH"] += os.pathsep + str(site)
    if steps:
        environment["STEPS"] = str(steps)
    words = ["-m", program] if isinstance(program, str) else [str(program)]
    done = subprocess.run(
        [sys.executable, *launcher, *words, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return _judged(frames, output)


def _site(folder: Path, *, has_hook: bool, prelude: str) -> Path:
    """A folder for PYTHONPATH in whose sitecustomize.py the interpreter runs the prelude and goes through .pth files."""
    folder.mkdir(exist_ok=True)
    if has_hook:
        shutil.copy(HOOK, folder)
    (folder / "sitecustomize.py").write_text(
        f"import site\n{prelude}\nsite.addsitedir({str(folder)!r})\n"
    )
    return folder


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _judged(frames: Path, output: str) -> Ran:
    decoded = [decode(path.read_bytes()) for path in sorted(frames.rglob("*.safetensors"))]
    first = [(header, tables) for header, tables in decoded if header["rank"] == 0]
    findings = [
        finding
        for engine in replay(frames)
        for finding in engine.findings
        if finding.severity is not Severity.INFO
    ]
    return Ran(
        findings=sorted(findings, key=lambda finding: finding.first_step),
        runs=sorted({header["run"] for header, _ in decoded}),
        meshes={header["rank"]: header["mesh"] for header, _ in decoded},
        layouts={each["fqn"]: each["layout"] for header, _ in first for each in header["tensors"]},
        steps=_steps(decoded, 0),
        steps_of={rank: _steps(decoded, rank) for rank in {h["rank"] for h, _ in decoded}},
        num_losses=sum(_num_losses(header, tables) for header, tables in first),
        offsets={header.get("step_offset") for header, _ in decoded},
        output=output,
    )


def _steps(decoded: list[tuple[dict[str, Any], dict[str, Any]]], rank: int) -> list[int]:
    return [
        int(step)
        for header, tables in decoded
        if header["rank"] == rank and "steps" in tables
        for step in tables["steps"]["step"]
    ]


def _num_losses(header: dict[str, Any], tables: dict[str, Any]) -> int:
    indices = tables["scalars"]["scalar"] if "scalars" in tables else ()
    return sum(header["scalars"][index] == "loss" for index in indices)
