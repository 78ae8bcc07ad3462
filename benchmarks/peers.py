"""
What other ways to watch a training cost, on the same training in the same run: CPU time, wall time and memory.

The GPT of 25 million parameters (trainings.py) is trained in lock-step (lockstep.py): unattached, unattached a second time,
under trainvitals with its default budget and with `budget=None`, and under each peer that is installed here:

* `wandb.watch(model, log="all", log_freq=1)`, offline: histograms of every parameter and gradient;
* msprobe's monitor (mindstudio-probe) with norm, minimum, maximum, mean and NaNs of the gradients, and of all that it
  writes to CSV: gradients, parameters, moments, and inputs and outputs of every module;
* hooks as people write them by hand (Hooks below): the same statistics of every parameter, gradient and module's output.

Each does so at every step, but for trainvitals' default, which looks at what its budget allows. Whatever a peer does in
processes of its own (wandb's service) is counted as its own; trainvitals' monitor stands apart. The first 50 steps are not
counted. A peer that is not installed is passed over, and that is said. In an environment of their own:

    python -m venv peers
    peers/bin/pip install -r requirements/torch.txt -r requirements/peers.txt '.[monitor]'
    peers/bin/python -m benchmarks.peers                 # about ten minutes
    peers/bin/python -m benchmarks.peers --write-docs    # also puts the table into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.lockstep import Arm, Lockstep, Measured, blocks, cpu_seconds_of
from benchmarks.overhead import BASE, BUDGETS, CONTROL, WARM_UP, Attached, Unattached
from benchmarks.report import machine, spread, table, write_part
from benchmarks.trainings import SmallGPT
from trainvitals_monitor.child import ChildMonitor

INTRODUCTION = """\
By `python -m benchmarks.peers`: the same GPT of 25 million parameters, trained in lock-step under each, looking at every
step but for trainvitals' default, which looks at what its budget allows. CPU time is that of the trainer's process with all
its threads and children. Medians of blocks of ten steps against the unattached trainer's, with quartiles. An agent takes the
wait for the other trainers for step time, and spends its share of that as well: trainvitals' default has had some ten times
what its budget allows."""
BLOCK = 10
OPS = ["norm", "min", "max", "mean", "nans"]


# -- the peers ---------------------------------------------------------------------------------------------------------


class Watched:
    """A training, and a peer that has hooked itself into it."""

    def __init__(self, folder: str) -> None:
        self._training = SmallGPT()
        self._folder = folder
        self.begin()

    def begin(self) -> None:
        """Let the peer in."""

    def step(self) -> None:
        """One optimizer step."""
        self._training.step()

    def told(self) -> str:
        """Peers say nothing of their cost."""
        return ""

    def close(self) -> None:
        """The process ends after this."""


class Hooks(Watched):
    """
    What people write by hand: hooks on every module, gradient and step that reduce and wait for the number, and a line of
    CSV a step.
    """

    def begin(self) -> None:
        """Hook what can be hooked."""
        self._row: dict[str, float] = {}
        self._file = (Path(self._folder) / "statistics.csv").open("w")
        self._writer: Any = None
        model = self._training.model
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(partial(self._note_output, name))
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(self._note_gradient, name))
        self._training.optimizer.register_step_post_hook(self._note_step)

    def _note_output(self, name: str, _module: Any, _given: Any, out: torch.Tensor) -> None:
        self._note(f"output.{name}", out.detach())

    def _note_gradient(self, name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        self._note(f"gradient.{name}", parameter.grad)

    def _note_step(self, *_: Any) -> None:
        for name, parameter in self._training.model.named_parameters():
            self._note(f"parameter.{name}", parameter.detach())
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(self._row))
            self._writer.writeheader()
        self._writer.writerow(self._row)

    def _note(self, name: str, tensor: torch.Tensor) -> None:
        self._row[f"{name}.norm"] = tensor.norm().item()
        self._row[f"{name}.mean"] = tensor.mean().item()
        self._row[f"{name}.min"] = tensor.min().item()
        self._row[f"{name}.max"] = tensor.max().item()
        self._row[f"{name}.nans"] = tensor.isnan().sum().item()


class Wandb(Watched):
    """Offline, with all that `watch` logs, at every step."""

    def begin(self) -> None:
        """A run that is written to a folder, and no report on the screen."""
        os.environ["WANDB_SILENT"] = "true"
        # By name: it is not there for who only reads this file, or checks its types.
        wandb = import_module("wandb")
        self._run = wandb.init(mode="offline", dir=self._folder, project="peers")
        self._run.watch(self._training.model, log="all", log_freq=1)

    def step(self) -> None:
        """What `watch` gathered goes out with what is logged."""
        self._run.log({"loss": self._training.step().item()})

    def close(self) -> None:
        """It waits for its service."""
        self._run.finish()


class Msprobe(Watched):
    """Its monitor, as configured."""

    config: ClassVar[dict[str, Any]]

    def begin(self) -> None:
        """It reads a file, writes CSV to a folder of the environment's, and tells of every module on stdout."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")
        os.environ["MONITOR_OUTPUT_DIR"] = self._folder
        file = Path(self._folder) / "config.json"
        file.write_text(
            json.dumps(
                {"targets": {}, "format": "csv", "ops": OPS, "step_interval": 1, **self.config}
            )
        )
        file.chmod(0o600)
        module = import_module("msprobe.pytorch.monitor.module_hook")
        monitor = module.TrainerMon(str(file), params_have_main_grad=False)
        monitor.set_monitor(self._training.model, self._training.optimizer, grad_acc_steps=1)


class MsprobeGradients(Msprobe):
    """Of weights' gradients."""

    config: ClassVar[dict[str, Any]] = {"wg_distribution": True}


class MsprobeAll(Msprobe):
    """Of all that it writes to CSV."""

    config: ClassVar[dict[str, Any]] = {
        "wg_distribution": True,
        "param_distribution": True,
        "mv_distribution": True,
        "xy_distribution": True,
        "all_xy": True,
    }


@dataclass(frozen=True)
class Peer:
    """One way to watch; `package` and `module` are what it needs, "" for nothing."""

    name: str
    make: type[Watched]
    package: str = ""
    module: str = ""


PEERS = (
    Peer("hooks by hand", Hooks),
    Peer("wandb.watch, all", Wandb, "wandb", "wandb"),
    Peer("msprobe, gradients", MsprobeGradients, "mindstudio-probe", "msprobe.pytorch.monitor.module_hook"),
    Peer("msprobe, everything", MsprobeAll, "mindstudio-probe", "msprobe.pytorch.monitor.module_hook"),
)  # fmt: skip


def missing(peer: Peer) -> str:
    """Why the peer cannot be run here; "" if it can. It is tried in a process of its own: some write as they are imported."""
    if not peer.package:
        return ""
    try:
        known = version(peer.package)
    except PackageNotFoundError:
        return f"{peer.name}: not run, {peer.package} is not installed"
    tried = subprocess.run(
        [sys.executable, "-c", f"import {peer.module}"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"{peer.name}: not run, {peer.package} {known} cannot be imported here ({last})"
    return ""


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(peers: Sequence[Peer], steps: int) -> tuple[dict[str, Measured], dict[str, float]]:
    """What each arm took, and the CPU seconds a step of trainvitals' monitors."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        arms = [Arm(name, partial(Unattached, SmallGPT, 1)) for name in (BASE, CONTROL)]
        monitors: dict[str, ChildMonitor] = {}
        for budget, share in BUDGETS.items():
            name = f"trainvitals, {budget}"
            monitors[name] = stack.enter_context(ChildMonitor(folder / budget))
            url = monitors[name].client.url
            arms.append(Arm(name, partial(Attached, SmallGPT, 1, url, share)))
        for peer in peers:
            own = folder / peer.make.__name__
            own.mkdir(mode=0o700)
            arms.append(Arm(peer.name, partial(peer.make, str(own))))
        lockstep = stack.enter_context(Lockstep(arms))
        began: dict[str, float] = {}

        def told(turn: int) -> None:
            if turn == WARM_UP - 1:
                began.update({name: cpu_seconds_of(each.pid) for name, each in monitors.items()})
            print(f"\rstep {turn + 1} of {WARM_UP + steps}  ", end="", file=sys.stderr, flush=True)

        found = lockstep.run(WARM_UP, steps, told)
        used = {name: cpu_seconds_of(each.pid) - began[name] for name, each in monitors.items()}
    return found, {name: seconds / steps for name, seconds in used.items()}


HEADER = ("way to watch", "CPU a step", "wall a step", "memory, MB", "at its highest, MB")


def rows(found: dict[str, Measured], monitors: dict[str, float]) -> Iterator[list[str]]:
    """What the unattached trainer takes, and how much more the others."""
    base = found[BASE]
    kinds = (base.cpu_s, base.wall_s)
    took = [f"{spread([1e3 * each for each in kind], '.0f')} ms" for kind in kinds]
    yield [BASE, *took, f"{base.memory.proportional / 1e6:.0f}", f"{base.memory.peak / 1e6:.0f}"]
    for name, one in found.items():
        if name != BASE:
            more = [_more(one.cpu_s, base.cpu_s), _more(one.wall_s, base.wall_s)]
            sizes = (
                one.memory.proportional - base.memory.proportional,
                one.memory.peak - base.memory.peak,
            )
            yield [name, *more, *(f"{size / 1e6:+.0f}" for size in sizes)]
    for name, seconds in monitors.items():
        yield [f"the monitor of {name}", f"{1e3 * seconds:.1f} ms", "", "", ""]


def _more(one: Sequence[float], base: Sequence[float]) -> str:
    pairs = zip(blocks(one, BLOCK), blocks(base, BLOCK), strict=True)
    return spread([mine / other - 1 for mine, other in pairs], "+.1%")


def main() -> int:
    """Measure, print, and write it down where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each arm (40)")
    parser.add_argument("--write-docs", action="store_true", help="put it into docs/benchmarks.md")
    given = parser.parse_args()
    if given.steps < BLOCK:
        print(f"--steps {given.steps}: at least {BLOCK} are needed for one ratio", file=sys.stderr)
        return 2
    lacking = {peer.name: missing(peer) for peer in PEERS}
    there = [peer for peer in PEERS if not lacking[peer.name]]
    notes = [f"* {why}" for why in lacking.values() if why]
    try:
        found, monitors = measure(there, given.steps)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is written", file=sys.stderr)
        return 130
    packages = dict.fromkeys(peer.package for peer in there if peer.package)
    where = machine("torch", *packages)
    parts = [where, table(HEADER, rows(found, monitors)), "\n".join(notes)]
    body = "\n\n".join(part for part in parts if part)
    print(f"\n{body}")
    if given.write_docs:
        write_part("peers", f"## Peers\n\n{INTRODUCTION}\n\n{body}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
