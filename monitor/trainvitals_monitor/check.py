"""
Run an unchanged training script under the agent with a private monitor, and report what was found: made for CI.

The script is a process of its own and knows nothing of this; the agent looks at everything at every step. The monitor
listens on loopback, keeps its store in a temporary folder, and ends with the check.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainvitals_monitor.child import ChildMonitor
from trainvitals_monitor.interruption import Terminated, end

_JUDGED_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Checked:
    """
    What a check saw: the script's exit status (None: Ctrl-C ended it), its runs as the API has them, and every finding
    ever opened.
    """

    script_status: int | None
    runs: list[dict[str, Any]]
    findings: list[dict[str, Any]]

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were judged, over all runs and attempts."""
        return sum(run["detail"].get("exercised", {}).get("steps", 0) for run in self.runs)


def check_script(
    script: Sequence[str],
    *,
    steps: int | None = None,
    is_module: bool = False,
    keep_stdout: bool = True,
    contract: str | None = None,
    thresholds: str | None = None,
    reference: str | None = None,
    reference_store: str | None = None,
) -> Checked:
    """
    Run `script` (its path or module name, and its arguments) to its end, or for `steps` optimizer steps.

    The script's stdout goes to ours, or to stderr when ours is wanted for something else (`keep_stdout=False`).
    Ctrl-C ends the script, and what was found until then is returned. Raises MonitorError if the private monitor can't
    start: BadSettings if that is for thresholds or a reference that can't be used.
    """
    with (
        tempfile.TemporaryDirectory(prefix="trainvitals-check-") as folder,
        ChildMonitor(
            Path(folder),
            thresholds=thresholds,
            reference=reference,
            reference_store=reference_store,
        ) as monitor,
    ):
        status = _run(script, monitor, steps, is_module, keep_stdout, contract)
        monitor.wait_until_judged(_JUDGED_TIMEOUT_S)
        names = [run["run"] for run in monitor.client.runs()]
        return Checked(
            script_status=status,
            runs=[monitor.client.run(name) for name in names],
            findings=[found for name in names for found in monitor.client.findings(name)],
        )


def _run(
    script: Sequence[str],
    monitor: ChildMonitor,
    steps: int | None,
    is_module: bool,
    keep_stdout: bool,
    contract: str | None,
) -> int | None:
    options = ["--monitor", monitor.client.url, "--budget", "none"]
    if steps is not None:
        options += ["--steps", str(steps)]
    if contract is not None:
        options += ["--contract", contract]
    command = [
        sys.executable,
        "-m",
        "trainvitals",
        "run",
        *options,
        *(["-m"] if is_module else []),
        *script,
    ]
    process = subprocess.Popen(
        command, stdout=None if keep_stdout else sys.stderr, env=_environment()
    )
    try:
        return process.wait()
    except Terminated:
        end(process, _END_TIMEOUT_S)
        raise
    except KeyboardInterrupt:
        # Ctrl-C in a terminal has reached the script too; it may save its state.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT_S)
        end(process, _END_TIMEOUT_S)
        return None


def _environment() -> dict[str, str]:
    """Ours, without settings that would send the facts elsewhere or join another run."""
    ours = (
        "TRAINVITALS_MONITOR",
        "TRAINVITALS_TOKEN_FILE",
        "TRAINVITALS_RUN",
        "TRAINVITALS_ATTEMPT",
        "TRAINVITALS_BUDGET",
        "TRAINVITALS_REFERENCE",
    )
    return {name: value for name, value in os.environ.items() if name not in ours}
