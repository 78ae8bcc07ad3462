"""
`trainvitals generate`: the files that Prometheus, Alertmanager and Grafana take.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write below; made if missing.",
)
def generate(*, out: Path) -> int:
    """
    Write dashboards, rules and configuration for Grafana, Prometheus and Alertmanager.

    They are the files of dashboards/ in the repository, for this version: write them anew after an upgrade. Files there
    that differ are overwritten.

    \b
    Examples:
      trainvitals generate --out /etc/trainvitals
    """
    # Imported here: the pages of the documentation are made from the command line, and would import it again.
    from trainvitals_monitor.generate import DEPLOYED, write

    written = write(out, DEPLOYED)
    for path in written:
        click.echo(f"written: {out / path}")
    click.echo(f"{len(DEPLOYED)} files below {out}, of which {len(written)} are new or changed")
    return 0
