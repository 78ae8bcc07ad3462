"""
`trainvitals replay FOLDER`: judge frames that were written to a folder.
"""

from __future__ import annotations

from pathlib import Path

import click

from trainvitals.errors import BadFrame
from trainvitals_monitor.commands.options import (
    BadInput,
    json_option,
    print_json,
    reference_store_option,
    thresholds_option,
    tuning,
)
from trainvitals_monitor.tables import (
    console,
    exit_status,
    plain,
    print_report,
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    metavar="FOLDER|RUN",
    help="A good run to compare with, as a folder of frames or by its name in the store.",
)
@reference_store_option
@thresholds_option
@json_option
def replay(
    folder: Path,
    *,
    reference: str | None,
    reference_store: str,
    thresholds: str | None,
    as_json: bool,
) -> int:
    """
    Judge the frames in FOLDER (of `attach(monitor=FOLDER)`) as the monitor would have, live.

    Shows every finding that was ever opened, also those that were resolved again. Exit status 1 if a warning or worse
    is among them, 2 if FOLDER holds no frames or a damaged one.

    \b
    Examples:
      trainvitals replay trainvitals-frames
      trainvitals replay trainvitals-frames --json > findings.json
      trainvitals replay frames-of-today --reference frames-of-a-good-run
    """
    # Imported here: detectors and numpy take a moment, which `trainvitals --help` need not wait for.
    from trainvitals_monitor.recording import reference_of
    from trainvitals_monitor.replay import findings_json
    from trainvitals_monitor.replay import replay as judge

    try:
        known = None if reference is None else reference_of(reference, reference_store)
        engines = judge(folder, tuning=tuning(thresholds), reference=known)
    except BadFrame as error:
        raise BadInput(plain(error)) from error
    found = findings_json(engines)
    if as_json:
        print_json(found)
        return exit_status(found)
    runs = [{"run": engine.run, "detail": engine.coverage()} for engine in engines]
    print_report(console(), found, runs)
    return exit_status(found)
