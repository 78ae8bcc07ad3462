"""
`trainvitals ack RUN FINDING`: somebody knows of a finding, and nobody need be told of it again.
"""

from __future__ import annotations

import click

from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import (
    BadInput,
    hours_option,
    json_option,
    monitor_option,
    print_json,
    reason_option,
)
from trainvitals_monitor.tables import plain


@click.command()
@click.argument("run")
@click.argument("finding", metavar="FINDING-OR-DETECTOR")
@reason_option
@hours_option
@monitor_option
@json_option
def ack(
    run: str, finding: str, client: Client, *, reason: str, hours: float | None, as_json: bool
) -> None:
    """
    Acknowledge a finding of RUN: no alert and no notification tells of it until it gets worse.

    Give its id, which `trainvitals findings RUN` shows, or a detector's name for all that is open of that detector now. It
    stays on the page, with the reason. Where the monitor has tokens this wants the operator's.

    \b
    Examples:
      trainvitals ack llama-8b slot-replaced-0123456789 --reason "Ann: fixed in the next run"
      trainvitals ack llama-8b expert-dead --reason "Ann: narrow data" --hours 24
    """
    meant = [
        one["id"]
        for one in client.findings(run)
        if one["id"] == finding or (one["detector"] == finding and one["status"] == "open")
    ]
    if not meant:
        raise BadInput(f"run {run!r} has no finding {finding!r}: see `trainvitals findings {run}`")
    made = [
        client.mute({"run": run, "finding": one, "reason": reason, "hours": hours}) for one in meant
    ]
    if as_json:
        print_json(made)
    for one in made if not as_json else ():
        click.echo(f"acknowledged {plain(one['finding'])} of {plain(run)} (mute {one['id']})")
