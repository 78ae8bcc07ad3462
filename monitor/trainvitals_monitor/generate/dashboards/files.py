"""
The dashboards' files: made with Grafana's SDK where that is installed, else as they were made for this version.

The SDK is for development only: it needs Python 3.11, and nobody who runs a monitor needs it. So the files are
committed, go into the wheel as they are, and `trainvitals generate --out` gives the same ones to everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from trainvitals_monitor.generate.dashboards import BOARDS
from trainvitals_monitor.generate.dashboards.board import Board
from trainvitals_monitor.generate.dashboards.provisioning import datasource_file, provider_file

_OWN = Path(__file__).parent
READY = (_OWN / "ready", _OWN.parents[3] / "dashboards" / "grafana" / "dashboards")
"""Where the files lie ready: in an installed package, in a checkout."""


def dashboard_file(board: Board) -> str:
    """The dashboard's text."""
    if find_spec("grafana_foundation_sdk") is None:
        return ready_file(board)
    from trainvitals_monitor.generate.dashboards.grafana import dashboard_json

    return dashboard_json(board)


def ready_file(board: Board) -> str:
    """The text as it was made for this version; FileNotFoundError if this is neither a package nor a checkout."""
    for folder in READY:
        if (folder / f"{board.name}.json").is_file():
            return (folder / f"{board.name}.json").read_text(encoding="utf-8")
    raise FileNotFoundError(f"{board.name}.json is in none of {[str(one) for one in READY]}")


DASHBOARD_FILES: tuple[tuple[str, Callable[[], str]], ...] = (
    *(
        (f"dashboards/grafana/dashboards/{board.name}.json", partial(dashboard_file, board))
        for board in BOARDS
    ),
    ("dashboards/grafana/provisioning/datasources/trainvitals.yml", datasource_file),
    ("dashboards/grafana/provisioning/dashboards/trainvitals.yml", provider_file),
)
