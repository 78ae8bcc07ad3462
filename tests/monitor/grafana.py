"""
What tests read of the generated dashboards: panels, queries, variables, as Grafana would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dashboards" / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that shows something: rows are headings."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def variables(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices at the dashboard's head."""
    listed: list[dict[str, Any]] = board["templating"]["list"]
    return listed


def marks(board: dict[str, Any]) -> list[dict[str, Any]]:
    """What marks time series, but for Grafana's own notes."""
    return [one for one in board.get("annotations", {}).get("list", []) if "expr" in one]


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where it is asked, and the PromQL: of panels and annotations."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in marks(board):
        yield annotation["name"], annotation["expr"]


def filled(expr: str, chosen: dict[str, str]) -> str:
    """The query with its variables replaced, as Grafana would; All is what matches anything."""
    said = {"__rate_interval": "10s", "__interval": "1s", "__range": "60s", **chosen}
    return re.sub(
        r"\$\{(\w+)[^}]*\}|\$(\w+)", lambda found: said.get(found[1] or found[2], ".+"), expr
    )


SELECTOR = re.compile(r"\b((?:trainvitals|process)_\w+)(?:\{([^}]*)\})?")
"""A series selector: metrics' names are words with a prefix of their own."""


def selectors(expr: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Metric, and label -> (operator, value), of every series that a query or label_values() asks for."""
    found = []
    for name, inside in SELECTOR.findall(expr):
        matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
        found.append((name, {label: (operator, value) for label, operator, value in matchers}))
    return found
