"""
What a dashboard is, as data: boards of rows of panels of queries. grafana.py turns them into Grafana's JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainvitals_monitor.detectors.detector import Detector

Kind = Literal["timeseries", "stat", "table", "heatmap"]
GRID_WIDTH = 24


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series (in a table: its column) are called: `legend` may use {{label}}. `unit`: of a column."""

    expr: str
    legend: str = "__auto"
    unit: str = ""


@dataclass(frozen=True)
class Limit:
    """A line at a value, and what lies on the wrong side of it: red above, or red below."""

    value: float
    said: str
    above: bool = True


@dataclass(frozen=True)
class Link:
    """Where a click leads; `url` may use Grafana's ${__data.fields...}. `column`: of a table, else the whole panel."""

    title: str
    url: str
    column: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """
    One panel. `unit`: Grafana's id of it. `width`, `height`: in grid units (24 a row). `limits`: thresholds, said in
    the description. `log`: a logarithmic axis. `columns`: of a table, the labels that stay, in order, with their
    headings; `values`: whether the queries' values follow them.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    kind: Kind = "timeseries"
    width: int = 12
    height: int = 8
    limits: tuple[Limit, ...] = ()
    log: bool = False
    minimum: float | None = None
    maximum: float | None = None
    columns: tuple[tuple[str, str], ...] = ()
    values: bool = True
    links: tuple[Link, ...] = ()

    @property
    def explained(self) -> str:
        """The description, with what each line in the panel means."""
        return " ".join([self.description, *(limit.said for limit in self.limits)])


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels under one heading, from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the dashboard's head: the values of a label of some metric's series."""

    name: str
    label: str
    description: str
    expr: str
    several: bool = True


@dataclass(frozen=True, kw_only=True)
class Board:
    """
    One dashboard. `name`: its file and the end of its uid. `variables`: beside the data source, job and instance.
    `findings`: whether open findings are marked in time series, of what `findings` selects.
    """

    name: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    findings: str = ""
    refresh: str = "30s"
    since: str = "now-6h"

    @property
    def uid(self) -> str:
        """What links call it, for ever."""
        return uid_of(self.name)


def uid_of(name: str) -> str:
    """The uid of the dashboard of this name."""
    return f"trainvitals-{name}"


def limit(detector: type[Detector], name: str, *, above: bool = True) -> Limit:
    """The line where a detector's threshold lies, as the detector declares it."""
    threshold = next(one for one in detector.thresholds if one.name == name)
    side = "Red above" if above else "Red below"
    said = f"{side} {threshold.default:g}, where {detector.name} looks closer: {threshold.reason}."
    return Limit(threshold.default, said, above)


def link_to(name: str, title: str, *, column: str = "run") -> Link:
    """To another dashboard, for the run of the row that was clicked, with data source, job and time kept."""
    kept = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${__url_time_range}"
    return Link(title, f"/d/{uid_of(name)}?var-run=${{__data.fields.run}}&{kept}", column)
