"""
docs/commands.md, from the command line's own help.
"""

from __future__ import annotations

import click

from trainvitals_monitor.generate.markdown import GENERATED

_INTRODUCTION = """
# The command line

`pip install 'trainvitals[monitor]'` brings all of it; `trainvitals run` comes with the agent alone. Exit status: 0 all
is well, 1 something was found (or did not work), 2 asked wrongly, 130 ended by Ctrl-C.

"""


def commands_page() -> str:
    """The page's text."""
    # Imported here: the command line offers to generate, and would import itself.
    from trainvitals_monitor.cli import cli

    sections = [_section("trainvitals", cli, None)]
    parent = click.Context(cli, info_name="trainvitals")
    sections += [
        _section(f"trainvitals {name}", each, parent) for name, each in cli.commands.items()
    ]
    return (
        GENERATED.format(source="trainvitals_monitor/commands/")
        + _INTRODUCTION
        + "\n".join(sections)
    )


def _section(title: str, command: click.Command, parent: click.Context | None) -> str:
    name = title.rpartition(" ")[2]
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"
