"""
`trainvitals mute RUN`: nobody is told of findings that match patterns, or of anything of a run.
"""

from __future__ import annotations

import click

from trainvitals_monitor.client import Client
from trainvitals_monitor.commands.options import (
    hours_option,
    json_option,
    monitor_option,
    print_json,
    reason_option,
)
from trainvitals_monitor.tables import plain


@click.command()
@click.argument("run")
@click.option("--detector", metavar="PATTERN", default="*", help="Only findings of such detectors.")
@click.option(
    "--tensor", metavar="PATTERN", default="*", help="Only findings whose tensors all match."
)
@reason_option
@hours_option
@monitor_option
@json_option
def mute(
    run: str,
    client: Client,
    *,
    detector: str,
    tensor: str,
    reason: str,
    hours: float | None,
    as_json: bool,
) -> None:
    """
    Mute what is found in RUN, a name or a pattern: no alert and no notification tells of it.

    Without --detector and --tensor that is all of the run, also that it vanished. `trainvitals mutes` lists what is muted,
    and takes it back; pages show it. Where the monitor has tokens this wants the operator's.

    \b
    Examples:
      trainvitals mute llama-8b --reason "Ann: ended on purpose" --hours 24
      trainvitals mute "sweep-*" --detector "expert-*" --reason "Ann: no balancing here"
      trainvitals mute "*" --tensor "vision_tower.*" --reason "Ann: frozen, replaced on purpose"
    """
    made = client.mute(
        {"run": run, "detector": detector, "tensor": tensor, "reason": reason, "hours": hours}
    )
    if as_json:
        print_json(made)
    else:
        click.echo(f"muted {plain(run)} (take it back: trainvitals mutes --remove {made['id']})")
