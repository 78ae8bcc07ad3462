"""
docs/commands.md, from the command line's own help.
"""

from __future__ import annotations

import click

from trainvitals_monitor.generate.markdown import GENERATED

_INTRODUCTION = """
# The command line

`pip install 'trainvitals[monitor]'` brings all of it; `trainvitals run` comes with the agent alone. Exit status: 0 all
is well (also when `serve` is ended by Ctrl-C), 1 something was found or did not work, 2 asked wrongly, 130 ended by
Ctrl-C.

"""


def commands_page() -> str:
    """The page's text."""
    # Imported here: the command line offers to generate, and would import itself.
    from trainvitals_monitor.cli import cli

    whole = click.Context(cli, info_name="trainvitals", terminal_width=100, **cli.context_settings)
    sections = [_section("trainvitals", cli.get_help(whole))]
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name, parent=whole, terminal_width=100)
        sections.append(_section(f"trainvitals {name}", command.get_help(context)))
        for inner, part in getattr(command, "commands", {}).items():
            below = click.Context(part, info_name=inner, parent=context, terminal_width=100)
            sections.append(_section(f"trainvitals {name} {inner}", part.get_help(below)))
    return (
        GENERATED.format(source="trainvitals_monitor/commands/")
        + _INTRODUCTION
        + "\n".join(sections)
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```\n{text}\n```\n"
