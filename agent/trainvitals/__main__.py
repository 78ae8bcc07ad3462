"""
The command `trainvitals`, and `python -m trainvitals`.

`run` is the agent's own and needs nothing but torch; everything else is the monitor's command line, if the extra is
installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import trainvitals

COMMANDS = (
    ("run", "run an unchanged training script with the agent attached"),
    ("check", "run a script for some steps, and list what is silently wrong with it"),
    ("contract", "write the lock file of a healthy run's training state"),
    ("compare", "set a run beside a good one: where and when do they part?"),
    ("demo", "see a real bug being found, in two minutes"),
    ("serve", "start a monitor, which takes facts from running trainers"),
    ("runs", "list the runs that a monitor has seen"),
    ("findings", "list what was found in a run"),
    ("ack", "acknowledge a finding: nobody is told of it any more"),
    ("mute", "have nobody told of what matches a pattern, for a time"),
    ("mutes", "list what is acknowledged and muted, or end it"),
    ("replay", "judge frames from a folder"),
    ("doctor", "is the monitor reachable? token, version, clock, spool"),
    ("generate", "write the rules, dashboards and configurations for Prometheus and Grafana"),
)

_EXAMPLES = """\
examples:
  trainvitals demo
  trainvitals check --steps 50 train.py
  trainvitals serve
  trainvitals run --monitor http://127.0.0.1:8420 train.py
  torchrun --nproc-per-node 2 -m trainvitals run train.py

`trainvitals COMMAND --help` says more. All but `run` need the monitor: pip install 'trainvitals[monitor]'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. `run` lets the script's own exceptions pass."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if words[0] in ("--version", "-V"):
        sys.stdout.write(f"trainvitals {trainvitals.__version__}\n")
        return 0
    if words[0] == "run":
        from trainvitals.launch import main as run

        return run(words[1:])
    return _monitor(words)


def _help() -> str:
    width = max(len(name) for name, _ in COMMANDS)
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS)
    return (
        "usage: trainvitals COMMAND [ARGS]\n\n"
        "The vital signs of a training run: finds silent state bugs, in the step they happen.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n  -h, --help  show this\n  --version   show the version\n\n"
        f"{_EXAMPLES}"
    )


def _monitor(words: list[str]) -> int:
    """The monitor's command line, or one line on how to get it."""
    try:
        from trainvitals_monitor.cli import main as monitor
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trainvitals."):
            raise
        sys.stderr.write(
            f"trainvitals {words[0]} needs the monitor: pip install 'trainvitals[monitor]' "
            f"({error.name} is missing)\n"
        )
        return 2
    return int(monitor(words) or 0)


if __name__ == "__main__":
    sys.exit(main())
