"""
`trainvitals`: the command line. One file a command in commands/; `trainvitals run` is the agent's (launch.py).

Exit status: 0 all is well, 1 something was found (or did not work), 2 asked wrongly, 130 ended by Ctrl-C,
143 by SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

import click

from trainvitals_monitor.client import MonitorError
from trainvitals_monitor.commands import COMMANDS
from trainvitals_monitor.interruption import exit_status, sigterm_interrupts


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`trainvitals run SCRIPT [ARGS]` attaches the agent to an unchanged training script: "
    "see `trainvitals run --help`.",
)
@click.version_option(
    version("trainvitals"), prog_name="trainvitals", message="%(prog)s %(version)s"
)
def cli() -> None:
    """
    The vital signs of a training run: finds silent state bugs, in the step they happen.

    \b
    Examples:
      trainvitals demo                      see it find a real bug, in two minutes
      trainvitals check --steps 50 train.py find bugs in your own script
      trainvitals serve                     take facts from running trainers
      trainvitals runs                      what runs, and what was found
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; whatever a person did wrong is one line, never a traceback."""
    try:
        with sigterm_interrupts():
            result = cli.main(
                args=None if arguments is None else list(arguments),
                prog_name="trainvitals",
                standalone_mode=False,
            )
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except MonitorError as error:
        click.echo(f"trainvitals: {error}", err=True)
        return 1
    except (click.Abort, KeyboardInterrupt) as ended:
        click.echo("interrupted", err=True)
        return exit_status(ended)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
