"""
`trainvitals serve`: the monitor.
"""

from __future__ import annotations

import os

import click

from trainvitals_monitor.commands.options import (
    BadInput,
    notify_urls,
    thresholds_option,
    token,
    tuning,
)
from trainvitals_monitor.config import DEFAULT_PORT, Config


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0: any that is free.",
)
@click.option(
    "--store",
    metavar="PATH|URL",
    default="trainvitals-store",
    show_default=True,
    envvar="TRAINVITALS_STORE",
    show_envvar=True,
    help="Folder, .sqlite or .db file, or sqlite:/// URL where history and findings rest.",
)
@click.option(
    "--ingest-token-file", metavar="FILE", help="File with the token that agents must send."
)
@click.option(
    "--read-token-file", metavar="FILE", help="File with the token that readers must send."
)
@click.option(
    "--operator-token-file",
    metavar="FILE",
    help="File with the token that acknowledging and muting want, and that may read; TRAINVITALS_OPERATOR_TOKEN.",
)
@click.option(
    "--public-url", metavar="URL", default="", help="How people reach the monitor, for links."
)
@click.option(
    "--insecure", is_flag=True, help="Listen on another address than loopback without tokens."
)
@click.option(
    "--notify",
    metavar="URL",
    multiple=True,
    help="Where to tell people of findings, as apprise has it (slack://..., mailto://..., json://...); may be given "
    "more than once. Others on this machine can read it in the list of processes: see --notify-file.",
)
@click.option(
    "--notify-file", metavar="FILE", help="File with such URLs, one a line, that only you can read."
)
@click.option("--notify-over", is_flag=True, help="Also tell, in one line, what is over.")
@thresholds_option
@click.option(
    "--reference",
    default="",
    metavar="FOLDER|RUN",
    help="A good run, as a folder of frames or by its name in --reference-store: every run is compared with it that names "
    "no other.",
)
@click.option(
    "--reference-store",
    default="",
    metavar="PATH|URL",
    help="Another store that has this run; its monitor may be running.",
)
@click.option(
    "--keep-steps",
    type=click.IntRange(min=0),
    default=65_536,
    show_default=True,
    metavar="STEPS",
    help="Steps of an attempt whose values are kept one by one; of 16 times as many, one entry in 16 steps is kept, and of "
    "older ones one in 256, each with its extremes. 0: all are kept.",
)
@click.option(
    "--idle-exit-s", type=float, metavar="SECONDS", help="End after so long without a request."
)
def serve(
    *,
    host: str,
    port: int,
    store: str,
    ingest_token_file: str | None,
    read_token_file: str | None,
    operator_token_file: str | None,
    public_url: str,
    insecure: bool,
    notify: tuple[str, ...],
    notify_file: str | None,
    notify_over: bool,
    thresholds: str | None,
    reference: str,
    reference_store: str,
    keep_steps: int,
    idle_exit_s: float | None,
) -> int:
    """
    Take facts from trainers, judge them, and show what was found.

    On another address than loopback it wants both tokens (each a file that only you can read, or
    TRAINVITALS_INGEST_TOKEN and TRAINVITALS_READ_TOKEN), or an explicit --insecure.

    Without Prometheus, --notify tells people of findings by mail, chat or webhook: critical ones at once, warnings
    in a digest. URLs may also stand in TRAINVITALS_NOTIFY, with blanks between them. It needs the extra
    trainvitals[notify].

    A run that names another one (`attach(reference=NAME)`) is compared with that, if it is in the store when the run begins.

    \b
    Examples:
      trainvitals serve
      trainvitals serve --store /var/lib/trainvitals --public-url https://vitals.example
      trainvitals serve --notify-file notify.urls
      trainvitals serve --host 0.0.0.0 --ingest-token-file ingest.token --read-token-file read.token
    """
    # Imported here: the web framework takes half a second, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.server import serve as run_server

    config = Config(
        host=host,
        port=port,
        store=store,
        ingest_token=token(ingest_token_file) or os.environ.get("TRAINVITALS_INGEST_TOKEN"),
        read_token=token(read_token_file) or os.environ.get("TRAINVITALS_READ_TOKEN"),
        operator_token=token(operator_token_file) or os.environ.get("TRAINVITALS_OPERATOR_TOKEN"),
        insecure=insecure,
        public_url=public_url,
        idle_exit_s=idle_exit_s,
        tuning=tuning(thresholds),
        notify=(*notify, *notify_urls(notify_file)),
        notify_over=notify_over,
        reference=reference,
        keep_steps=keep_steps or None,
        reference_store=reference_store,
    )
    try:
        return run_server(config)
    except ValueError as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
