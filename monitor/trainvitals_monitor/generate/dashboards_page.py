"""
docs/dashboards.md, from BOARDS.
"""

from __future__ import annotations

from trainvitals_monitor.generate.dashboards import BOARDS
from trainvitals_monitor.generate.dashboards.board import Board
from trainvitals_monitor.generate.markdown import GENERATED, table

_INTRODUCTION = """
# Dashboards for Grafana

Six dashboards, in dashboards/grafana, with provisioning of the data source and of the folder:
[docker.md](docker.md) starts all of it. With a Grafana of your own, import the JSON files, or mount the folder and point
a provider at it. Who installed with pip gets the same files by `trainvitals generate --out DIR`.

They are for Grafana 11.6 and later, and a Prometheus that scrapes the monitor. **Not opened in Grafana so far**: there
was none where they were made. Tested are: the format (made with Grafana's own SDK), the rules of Grafana's
dashboard-linter, and every query of every panel, variable and annotation against a real Prometheus that scrapes a real
monitor.

Each has the variables data source, job and instance, and all but Monitor the run; they keep them, and the time, when you
go from one to the other. Open findings are marked in time series. Lines at which panels turn red are the detectors' own
thresholds. The files are generated, and can't be edited in Grafana: save a copy, or change
`trainvitals_monitor/generate/dashboards/` and run `make generate`.

"""


def dashboards_page() -> str:
    """The page's text."""
    source = GENERATED.format(source="trainvitals_monitor/generate/dashboards/")
    return source + _INTRODUCTION + "\n".join(_section(board) for board in BOARDS)


def _section(board: Board) -> str:
    chosen = ", ".join(["data source", "job", "instance", *(one.name for one in board.variables)])
    rows = [
        (row.title if place == 0 else "", panel.title, panel.explained)
        for row in board.rows
        for place, panel in enumerate(row.panels)
    ]
    head = f"## {board.title}\n\n{board.description} Variables: {chosen}.\n\n"
    return head + table(("row", "panel", "what it shows"), rows)
