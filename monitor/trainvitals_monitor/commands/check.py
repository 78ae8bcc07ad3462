"""
`trainvitals check SCRIPT`: run it, and say what is silently wrong.
"""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from trainvitals_monitor.check import Checked, check_script
from trainvitals_monitor.child import BadSettings
from trainvitals_monitor.commands.options import (
    BadInput,
    json_option,
    print_json,
    reference_store_option,
    thresholds_option,
    tuning,
)
from trainvitals_monitor.interruption import INTERRUPTED
from trainvitals_monitor.tables import (
    console,
    exit_status,
    plain,
    print_report,
)

_NOTHING_CHECKED = 2


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="End the script after N optimizer steps.",
)
@click.option(
    "-m", "is_module", is_flag=True, help="SCRIPT is the name of a module, as for `python -m`."
)
@click.option(
    "--contract",
    metavar="FILE",
    help="Report any departure from this contract and its lock (see `trainvitals contract`).",
)
@click.option(
    "--reference",
    metavar="FOLDER|RUN",
    help="A good run of the script, as a folder of frames or by its name in the store: say where this one parts from it.",
)
@reference_store_option
@thresholds_option
@json_option
@click.argument("script")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def check(
    *,
    script: str,
    arguments: tuple[str, ...],
    steps: int | None,
    is_module: bool,
    contract: str | None,
    reference: str | None,
    reference_store: str,
    thresholds: str | None,
    as_json: bool,
) -> int:
    """
    Run the training SCRIPT, unchanged, and report what is silently wrong with its state.

    The agent looks at everything at every step; a private monitor judges. Exit status 0: nothing was found; 1: a
    warning or worse was ever opened, or the script failed; 2: nothing could be checked (no script, no optimizer step);
    130: you pressed Ctrl-C, and what was found until then is reported.

    \b
    Examples:
      trainvitals check train.py --epochs 1
      trainvitals check --steps 50 train.py --config small.toml
      trainvitals check --contract trainvitals.lock.toml train.py
      trainvitals check --reference frames-of-a-good-run train.py
      trainvitals check --reference llama-7b-monday --store trainvitals-store train.py
      trainvitals check --steps 50 --json -m my_project.train > findings.json
    """
    if not is_module and not Path(script).is_file():
        raise BadInput(f"there is no script {script!r}")
    if find_spec("torch") is None:
        raise click.ClickException(
            "torch is not installed beside trainvitals: run this with the script's own Python"
        )
    for file in (contract, thresholds):
        tuning(file)
    try:
        checked = check_script(
            [script, *arguments],
            steps=steps,
            is_module=is_module,
            keep_stdout=not as_json,
            contract=contract,
            thresholds=thresholds,
            reference=reference,
            reference_store=reference_store,
        )
    except BadSettings as error:
        raise BadInput(plain(error)) from error
    if as_json:
        print_json(checked.findings)
    print_report(console(sys.stderr if as_json else sys.stdout), checked.findings, checked.runs)
    return _status(checked, script)


def _status(checked: Checked, script: str) -> int:
    """The exit status; what could not be checked is said on stderr."""
    if checked.script_status is None:
        click.echo(f"interrupted after {checked.num_steps} steps", err=True)
        return INTERRUPTED
    failed = checked.script_status != 0
    if failed:
        click.echo(f"{script} {_ending(checked.script_status)}", err=True)
    if checked.num_steps == 0:
        click.echo(
            f"{script} made no optimizer step, so nothing was checked. Does it train in another process, or without "
            "a torch optimizer? Then call trainvitals.attach(model), and agent.step() after each update.",
            err=True,
        )
        return _NOTHING_CHECKED
    return max(exit_status(checked.findings), int(failed))


def _ending(status: int) -> str:
    """How a script that failed has ended, in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"failed by itself: exit status {status}"
