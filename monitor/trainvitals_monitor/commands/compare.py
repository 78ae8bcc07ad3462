"""
`trainvitals compare RUN REFERENCE`: where two runs of a script part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trainvitals.errors import BadFrame
from trainvitals_monitor.client import Client, MonitorError, Refused
from trainvitals_monitor.commands.options import (
    BadInput,
    json_option,
    monitor_option,
    print_json,
    reference_store_option,
)
from trainvitals_monitor.tables import console, exit_status, partings_table, plain


@click.command()
@click.argument("run")
@click.argument("reference")
@reference_store_option
@json_option
@monitor_option
def compare(
    run: str, reference: str, *, reference_store: str, as_json: bool, client: Client
) -> int:
    """
    Compare RUN with REFERENCE, a good run of the same script: two folders of frames (of `attach(monitor=FOLDER)`), a
    folder and the name of a run in the store, or names of two runs of a monitor.

    Shows the first step and the first tensors at which they part, by how much and in what. Runs that start from the same
    values and see the same data are compared to the bit; where they differ by rounding, closely; with another seed,
    statistically. Exit status 1 if they part above info, 2 if a folder can't be read or a monitor has no such run.

    \b
    Examples:
      trainvitals compare frames-new frames-old
      trainvitals compare frames-new frames-old --json > partings.json
      trainvitals compare frames-new llama-7b-monday --store trainvitals-store
      trainvitals compare llama-7b-tuesday llama-7b-monday --monitor http://monitor:8420
    """
    if any(Path(given).exists() for given in (run, reference)):
        found = _of_folders(run, reference, reference_store)
    else:
        found = _of_names(run, reference, client)
    if as_json:
        print_json(found)
        return exit_status(found["findings"])
    if found["findings"]:
        console().print(partings_table(found["findings"]))
    click.echo(
        plain(
            f"{found['run']} beside {found['reference']}: {found['steps']} steps compared, {found['equal_steps']} of "
            f"them equal; comparison: {found['mode']}, largest difference {found['largest_difference']:.2g}"
        )
    )
    return exit_status(found["findings"])


def _of_folders(run: str, reference: str, store: str) -> dict[str, Any]:
    # Imported here: detectors and numpy take a moment, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.compare import compare as judge

    try:
        return judge(run, reference, store).as_json()
    except BadFrame as error:
        raise BadInput(plain(error)) from error


def _of_names(run: str, reference: str, client: Client) -> dict[str, Any]:
    try:
        return client.comparison(run, reference)
    except Refused as refusal:
        raise BadInput(plain(refusal)) from refusal
    except MonitorError as error:
        raise BadInput(
            plain(f"{run!r} and {reference!r} are no folders, and as names of runs: {error}")
        ) from error
