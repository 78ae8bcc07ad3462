"""
`python -m trainvitals_monitor.generate`: write the generated files, or check them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trainvitals_monitor.generate import outdated, write


@click.command()
@click.option(
    "--check", is_flag=True, help="Write nothing; exit status 1 if a file is not up to date."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write below (default: the working directory).",
)
def main(*, check: bool, out: Path) -> None:
    """Make documentation from the catalogues of detectors, settings, facts and commands."""
    changed = outdated(out) if check else write(out)
    for path in changed:
        click.echo(f"{'not up to date' if check else 'written'}: {path}", err=check)
    if check and changed:
        click.echo("run `make generate` and commit what it writes", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
