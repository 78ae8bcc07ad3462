"""
`trainvitals compare RUN REFERENCE`: where two runs of a script part.
"""

from __future__ import annotations

from pathlib import Path

import click

from trainvitals.errors import BadFrame
from trainvitals_monitor.commands.options import BadInput, json_option, print_json
from trainvitals_monitor.tables import console, exit_status, partings_table, plain


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("reference", type=click.Path(path_type=Path))
@json_option
def compare(run: Path, reference: Path, *, as_json: bool) -> int:
    """
    Compare RUN with REFERENCE, a good run of the same script: two folders of frames (of `attach(monitor=FOLDER)`).

    Shows the first step and the first tensors at which they part, by how much and in what. Runs that start from the same
    values and see the same data are compared to the bit; where they differ by rounding, closely; with another seed,
    statistically. Exit status 1 if they part above info, 2 if a folder can't be read.

    \b
    Examples:
      trainvitals compare frames-new frames-old
      trainvitals compare frames-new frames-old --json > partings.json
    """
    # Imported here: detectors and numpy take a moment, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.compare import compare as judge

    try:
        found = judge(run, reference)
    except BadFrame as error:
        raise BadInput(plain(error)) from error
    if as_json:
        print_json(found.as_json())
        return exit_status(found.findings)
    if found.findings:
        console().print(partings_table(found.findings))
    click.echo(
        plain(
            f"{found.run} beside {found.reference}: {found.steps} steps compared, {found.equal_steps} of them equal; "
            f"comparison: {found.mode}, largest difference {found.largest_difference:.2g}"
        )
    )
    return exit_status(found.findings)
