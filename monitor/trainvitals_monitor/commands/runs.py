"""
`trainvitals runs`: what a monitor knows of.
"""

from __future__ import annotations

import click

from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import json_option, monitor_option, print_json
from trainvitals_monitor.tables import console, runs_table


@click.command()
@monitor_option
@json_option
def runs(client: Client, *, as_json: bool) -> None:
    """
    List the runs of a monitor, how far they are, and what is open.

    \b
    Examples:
      trainvitals runs
      trainvitals runs --monitor http://monitor.example:8420 --token-file ~/.trainvitals-token
      trainvitals runs --json | jq '.[] | select(.phase == "training") | .run'
    """
    known = client.runs()
    if as_json:
        print_json(known)
    elif known:
        console().print(runs_table(known))
    else:
        click.echo(
            f"{client.url} knows no run yet; start a trainer with TRAINVITALS_MONITOR={client.url}"
        )
