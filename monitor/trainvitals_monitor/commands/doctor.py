"""
`trainvitals doctor`: is everything in place?
"""

from __future__ import annotations

import click
from rich.text import Text

from trainvitals_monitor.commands.options import token
from trainvitals_monitor.doctor import examine
from trainvitals_monitor.tables import console, plain


@click.command()
@click.option(
    "--monitor", metavar="URL", help="The monitor to look at (default: as a trainer here would)."
)
@click.option(
    "--token-file",
    metavar="FILE",
    envvar="TRAINVITALS_READ_TOKEN_FILE",
    help="File that holds the monitor's read token.",
)
def doctor(*, monitor: str | None, token_file: str | None) -> int:
    """
    Check what a trainer on this machine needs: the monitor, tokens, versions, clocks, the spool.

    Uses the trainer's own settings (TRAINVITALS_*). Exit status 1 if something is wrong.

    \b
    Examples:
      trainvitals doctor
      TRAINVITALS_MONITOR=https://vitals.example trainvitals doctor
    """
    problems = 0
    out = console()
    for line in examine(monitor, token(token_file)):
        problems += not line.ok
        mark = Text("ok      ", style="green") if line.ok else Text("problem ", style="bold red")
        out.print(mark, Text(f"{line.what:<12} {plain(line.text)}"), sep="", soft_wrap=True)
        if not line.ok:
            out.print(Text(f"{'':<20} -> {plain(line.advice)}", style="italic"), soft_wrap=True)
    return int(problems > 0)
