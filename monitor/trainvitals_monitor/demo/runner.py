"""
Start a monitor and the trainer with the chosen fault, show how training goes, and print what was found.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trainvitals_monitor.child import ChildMonitor, usual_port
from trainvitals_monitor.client import MonitorError
from trainvitals_monitor.demo import Fault
from trainvitals_monitor.demo.trainer import Trainer
from trainvitals_monitor.tables import console, findings_table, plain, verdict

_STEP = re.compile(r"^step (\d+) loss (\S+)$")
_LINGER_S = 600.0
_SHORTEST_IDLE_S = 60.0
_JUDGED_TIMEOUT_S = 20.0


def run_demo(fault: Fault, *, steps: int | None = None, linger_s: float | None = None) -> int:
    """
    Run the demo; returns the exit status: 0 when training went as it was meant to (the fault included).

    `steps`: per attempt, instead of the fault's own number. `linger_s`: how long the monitor stays afterwards; None: on
    a terminal until Ctrl-C, otherwise ten minutes.
    """
    attended = linger_s is None and sys.stdin.isatty() and sys.stdout.isatty()
    linger_s = _LINGER_S if linger_s is None else linger_s
    folder = Path(tempfile.mkdtemp(prefix="trainvitals-demo-"))
    idle_exit_s = 24 * 3600.0 if attended else max(linger_s, _SHORTEST_IDLE_S)
    monitor = ChildMonitor(folder, port=usual_port(), idle_exit_s=idle_exit_s)
    stays = False
    try:
        try:
            monitor.start()
        except MonitorError:  # somebody has taken the usual port since we looked: any will do
            monitor = ChildMonitor(folder, idle_exit_s=idle_exit_s)
            monitor.start()
        status = _train_and_tell(fault, monitor, folder, steps or fault.steps)
        if status == 0 and attended:
            _wait_for_interrupt(monitor)
        stays = status == 0 and not attended and linger_s > 0
        if stays:
            _tell(
                f"The monitor stays for {linger_s:.0f} s after the last visit: {monitor.client.url} "
                f"(pid {monitor.pid}; `kill {monitor.pid}` ends it)"
            )
        return status
    finally:
        if not stays:
            monitor.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _train_and_tell(fault: Fault, monitor: ChildMonitor, folder: Path, steps: int) -> int:
    run = f"demo-{fault.name}"
    _tell(f"Training a small language model with experts, in which {fault.story}.")
    _tell(f"The monitor: {monitor.client.url}")
    for attempt in range(1, fault.attempts + 1):
        trainer = Trainer(fault, run=run, monitor=monitor.client.url, folder=folder, steps=steps)
        status = _watch(trainer, f"attempt {attempt}" if fault.attempts > 1 else "training", steps)
        if status and fault.last_attempt_fails and attempt == fault.attempts:
            _tell(f"Attempt {attempt} could not resume, as it was then: {trainer.last_words}")
        elif status:
            _tell(f"The trainer ended with exit status {status}:\n{trainer.said}")
            return 1
    monitor.wait_until_judged(_JUDGED_TIMEOUT_S)
    found = monitor.client.findings(run)
    out = console()
    if found:
        out.print(findings_table(found))
    page = monitor.client.run(run)["page"]
    out.print(f"{verdict(found)}. Look at the run: {page}", markup=False, soft_wrap=True)
    return 0


def _watch(trainer: Trainer, what: str, steps: int) -> int:
    """Show the trainer's progress until it ends; returns its exit status."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    say = console(sys.stderr)
    with Progress(*columns, console=say) as progress, trainer:
        task = progress.add_task(what, total=steps, loss="")
        done = 0
        for line in trainer.lines():
            step = _STEP.match(line)
            if step is None:
                _show(line, progress.console)
                continue
            done += 1
            progress.update(task, completed=done, loss=f"loss {step[2]}")
    return trainer.status


def _show(line: str, out: Console) -> None:
    out.print(plain(line), markup=False, style="dim", soft_wrap=True)


def _wait_for_interrupt(monitor: ChildMonitor) -> None:
    _tell(f"The monitor stays until you press Ctrl-C: {monitor.client.url}")
    try:
        while monitor.is_running:
            time.sleep(0.5)
    except KeyboardInterrupt:
        _tell("ended")


def _tell(text: str) -> None:
    console(sys.stderr).print(text, markup=False, soft_wrap=True)
