"""
`trainvitals mutes`: what is acknowledged and muted, and the way back.
"""

from __future__ import annotations

import click

from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import json_option, monitor_option, print_json
from trainvitals_monitor.tables import console, mutes_table


@click.command()
@click.option(
    "--remove", metavar="ID", multiple=True, help="Take this one back; may be given more than once."
)
@monitor_option
@json_option
def mutes(client: Client, *, remove: tuple[str, ...], as_json: bool) -> None:
    """
    List acknowledged findings and muted patterns, or take some back.

    What is taken back is told again, while it is open.

    \b
    Examples:
      trainvitals mutes
      trainvitals mutes --remove 0123456789
      trainvitals mutes --json | jq '.[] | select(.until == null)'
    """
    for one in remove:
        client.unmute(one)
    known = client.mutes()
    if as_json:
        print_json(known)
    elif known:
        console().print(mutes_table(known))
    else:
        click.echo("nothing is muted")
