"""
`trainvitals findings RUN`: what a monitor has found in one run.
"""

from __future__ import annotations

import click

from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import json_option, monitor_option, print_json
from trainvitals_monitor.tables import console, exit_status, findings_table, verdict


@click.command()
@click.argument("run")
@click.option("--all", "with_resolved", is_flag=True, help="Also those that are resolved.")
@monitor_option
@json_option
def findings(run: str, client: Client, *, with_resolved: bool, as_json: bool) -> int:
    """
    Show what was found in RUN. Exit status 1 if a warning or worse is among it.

    `trainvitals ack` takes the ids that are shown.

    \b
    Examples:
      trainvitals findings llama-8b
      trainvitals findings llama-8b --all --json
    """
    found = [
        finding for finding in client.findings(run) if with_resolved or finding["status"] == "open"
    ]
    if as_json:
        print_json(found)
    else:
        if found:
            console().print(findings_table(found, with_id=True))
        click.echo(f"{run}: {verdict(found)}")
    return exit_status(found)
