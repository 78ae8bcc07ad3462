"""
Options that several commands share: which monitor to ask, and machine-readable output.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from trainvitals.errors import BadSetting
from trainvitals_monitor.client import Client
from trainvitals_monitor.config import DEFAULT_PORT, read_notify_file, read_token_file

if TYPE_CHECKING:
    from trainvitals_monitor.overrides import Tuning

LOCAL_MONITOR = f"http://127.0.0.1:{DEFAULT_PORT}"

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs."
)

thresholds_option = click.option(
    "--thresholds",
    metavar="FILE",
    help="TOML file with thresholds of detectors that differ, or a contract that has some (docs/contract.md).",
)

reason_option = click.option(
    "--reason", metavar="TEXT", required=True, help="Who says so and why, for those who see it."
)
hours_option = click.option(
    "--hours",
    type=click.FloatRange(0, 24 * 366, min_open=True),
    help="For so long (default: until it is taken back).",
)


reference_store_option = click.option(
    "--store",
    "reference_store",
    metavar="PATH|URL",
    default="trainvitals-store",
    show_default=True,
    envvar="TRAINVITALS_STORE",
    help="Where runs that are given by name rest; a monitor may be writing it.",
)


class BadInput(click.ClickException):
    """What a person gave can't be used: one line on stderr, exit status 2."""

    exit_code = 2


def monitor_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--monitor` and `--token-file`; the command gets them as one argument `client`."""

    @click.option(
        "--monitor",
        metavar="URL",
        help=f"Address of the monitor (default: TRAINVITALS_MONITOR if that is a URL, else {LOCAL_MONITOR}).",
    )
    @click.option(
        "--token-file",
        metavar="FILE",
        envvar="TRAINVITALS_READ_TOKEN_FILE",
        help="File that holds the monitor's read token, or the operator's.",
    )
    @wraps(command)
    def with_client(*args: Any, monitor: str | None, token_file: str | None, **kwargs: Any) -> Any:
        return command(
            *args, client=Client(monitor or address(), token=token(token_file)), **kwargs
        )

    return with_client


def address() -> str:
    """The monitor of the environment, if it is one that can be asked, else the one on this machine."""
    given = os.environ.get("TRAINVITALS_MONITOR", "")
    return given if "://" in given else LOCAL_MONITOR


def tuning(file: str | None) -> Tuning | None:
    """The thresholds in the file; a wrong file is the person's mistake."""
    if not file:
        return None
    # Imported here: the detectors take a moment, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.overrides import read_tuning

    try:
        return read_tuning(file)
    except BadSetting as error:
        raise BadInput(str(error)) from error


def token(file: str | None) -> str | None:
    """The token in the file; a wrong file is the person's mistake."""
    if not file:
        return None
    try:
        return read_token_file(file)
    except ValueError as error:
        raise BadInput(str(error)) from error


def notify_urls(file: str | None) -> tuple[str, ...]:
    """The URLs of the environment and of the file; a wrong file is the person's mistake."""
    given = tuple(os.environ.get("TRAINVITALS_NOTIFY", "").split())
    if not file:
        return given
    try:
        return (*given, *read_notify_file(file))
    except ValueError as error:
        raise BadInput(str(error)) from error


def print_json(data: Any) -> None:
    """JSON for programs on stdout; everything else that a command says goes to stderr then."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))
