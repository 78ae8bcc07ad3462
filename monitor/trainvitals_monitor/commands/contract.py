"""
`trainvitals contract`: the lock file of a model's training state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainvitals.contract_file import DEFAULT_NAME
from trainvitals.errors import BadFrame, BadSetting
from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import BadInput, monitor_option
from trainvitals_monitor.tables import plain

if TYPE_CHECKING:
    from trainvitals.lock import Lock


@click.group()
def contract() -> None:
    """
    What must hold of a model's training state, as a file to commit and review.

    `contract write` makes it from a healthy run; `check --contract FILE` and `attach(contract="FILE")` report any
    departure from it. See docs/contract.md.

    \b
    Examples:
      trainvitals contract write trainvitals-frames
      trainvitals check --contract trainvitals.lock.toml train.py
    """


@contract.command()
@click.argument("source", metavar="RUN-OR-FOLDER")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_NAME,
    show_default=True,
    help="The file to write; what is declared in one that is there is kept.",
)
@click.option("--force", is_flag=True, help="Also from a run in which something was found.")
@monitor_option
def write(source: str, client: Client, *, out: Path, force: bool) -> int:
    """
    Write the lock of a healthy run: every tensor with its dtype, shape, whether it is trained, saved, and moves.

    RUN-OR-FOLDER is a folder of frames (of `attach(monitor=FOLDER)`) with one run, or the name of a run that the
    monitor knows. Run the same command again after a change that is meant, and review the diff.

    \b
    Examples:
      trainvitals contract write trainvitals-frames
      trainvitals contract write llama-8b --out llama.lock.toml --monitor http://monitor:8420
    """
    # Imported here: the detectors take a moment, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.lockfile import write_lock

    lock, run, bad = _of_folder(Path(source)) if Path(source).exists() else _of_run(client, source)
    if bad and not force:
        raise click.ClickException(
            f"in run {plain(run)!r} was found: {', '.join(bad)}. A lock is made from a run that is well "
            "(`--force` makes one all the same)"
        )
    if not lock.tensors:
        raise BadInput(f"run {plain(run)!r} has no tensors yet")
    steps = f"steps {lock.first_step} to {lock.last_step}"
    try:
        changed = write_lock(out, lock, f"run {plain(run)}, {steps}")
    except BadSetting as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{out}: {'written' if changed else 'as it was'}; {len(lock.tensors)} lines, {steps}"
    )
    return 0


_Found = tuple["Lock", str, list[str]]
"""A lock, the run's name, and what was found in it above info."""


def _of_folder(folder: Path) -> _Found:
    from trainvitals_monitor.locking import lock_of
    from trainvitals_monitor.replay import replay

    try:
        engines = replay(folder)
    except BadFrame as error:
        raise BadInput(plain(error)) from error
    if len(engines) > 1:
        names = ", ".join(plain(engine.run) for engine in engines)
        raise BadInput(f"{folder} holds several runs ({names}): give the folder of one")
    attempt = engines[0].history.current
    if attempt is None:
        raise BadInput(f"{folder} holds no step of a run")
    found = [one.as_json() for one in engines[0].findings if one.attempt == attempt.key]
    return lock_of(attempt), engines[0].run, _bad(found)


def _of_run(client: Client, run: str) -> _Found:
    from pydantic import TypeAdapter

    from trainvitals.lock import Lock

    attempt = client.run(run)["attempt"]
    found = [one for one in client.findings(run) if one["attempt"] == attempt]
    return TypeAdapter(Lock).validate_python(client.lock(run)), run, _bad(found)


def _bad(findings: list[dict[str, str]]) -> list[str]:
    return sorted({one["detector"] for one in findings if one["severity"] != "info"})
