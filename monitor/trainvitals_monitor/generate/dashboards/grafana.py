"""
Boards as Grafana's dashboard JSON, by Grafana's own SDK. The only module that needs `grafana-foundation-sdk`, which is
for Python 3.11 and later; what it makes is committed, and shipped with the package.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from trainvitals_monitor.generate.dashboards.board import Board, Limit, Link, Panel, Query, Variable
from trainvitals_monitor.generate.dashboards.queries import ALWAYS

TAG = "trainvitals"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_BUILDERS = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
    "heatmap": heatmap.Panel,
}
_GOOD, _DOUBTFUL, _BAD, _CALM = "green", "orange", "red", "blue"
_ALL = models.VariableOption(selected=True, text="All", value="$__all")
_REFRESH = models.VariableRefresh.ON_TIME_RANGE_CHANGED


class _Built:
    """What the SDK's methods take is builders; this is one whose thing is there already."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def build(self) -> Any:
        return self._thing


class _FindingsAnnotation(models.AnnotationQuery):
    """An annotation query with the fields that Grafana's Prometheus source knows and the SDK does not."""

    def to_json(self) -> dict[str, object]:
        known: dict[str, object] = super().to_json()
        return known | {
            "titleFormat": "{{detector}}",
            "textFormat": "{{severity}} finding in run {{run}}",
            "tagKeys": "severity,detector",
            "step": "15s",
        }


def dashboard_json(board: Board) -> str:
    """The dashboard's file."""
    made = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh(board.refresh)
        .time(board.since, "now")
        .link(_siblings())
        .with_variable(_source())
    )
    for variable in (*(_scraped(name) for name in ALWAYS), *map(_variable, board.variables)):
        made.with_variable(variable)
    if board.findings:
        made.annotation(_findings(board.findings))
    number = 0
    for row in board.rows:
        number += 1
        made.with_row(builders.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(_panel(panel).id(number))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(made.build())
    return text + "\n"


def _siblings() -> Any:
    return (
        builders.DashboardLink("trainvitals")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .tooltip("The other dashboards, for the same run and time")
        .include_vars(True)
        .keep_time(True)
    )


def _source() -> Any:
    return (
        builders.DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that scrapes the monitor.")
        .type("prometheus")
    )


def _scraped(name: str) -> Any:
    expr = f"label_values(trainvitals_build_info, {name})"
    if name == "instance":
        expr = 'label_values(trainvitals_build_info{job=~"$job"}, instance)'
    said = {"job": "Prometheus' scrape job.", "instance": "The monitor that was scraped."}[name]
    return _variable(
        Variable(name=name, label=name.capitalize(), description=said, expr=expr)
    ).all_value(".+")


def _variable(variable: Variable) -> Any:
    made = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.description)
        .datasource(SOURCE)
        .query({"query": variable.expr, "refId": f"Variable-{variable.name}"})
        .refresh(_REFRESH)
        .sort(models.VariableSort.NATURAL_ASC)
        .multi(variable.several)
        .include_all(variable.several)
    )
    if variable.several:
        made.all_value(".+").current(_ALL)
    return made


def _findings(expr: str) -> Any:
    return _Built(
        _FindingsAnnotation(
            name="Findings", datasource=SOURCE, enable=True, icon_color=_BAD, expr=expr
        )
    )


def _panel(panel: Panel) -> Any:
    made = (
        _BUILDERS[panel.kind]()
        .title(panel.title)
        .description(panel.explained)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
    )
    for number, query in enumerate(panel.queries):
        made.with_target(_target(panel, query, chr(ord("A") + number)))
    if panel.minimum is not None:
        made.min(panel.minimum)
    if panel.maximum is not None:
        made.max(panel.maximum)
    made.thresholds(_thresholds(panel.limits))
    {"timeseries": _lines, "stat": _stat, "table": _table, "heatmap": _heatmap}[panel.kind](
        panel, made
    )
    return made


def _target(panel: Panel, query: Query, ref: str) -> Any:
    made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref)
    if panel.kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    if panel.kind == "stat":
        return made.instant()
    return made.range()


def _thresholds(limits: tuple[Limit, ...]) -> Any:
    """Blue where nothing is said; else from green to red, by way of orange where there are two lines."""
    ordered = sorted(limits, key=lambda one: one.value)
    colors = [_CALM]
    if ordered:
        colors = [_GOOD, *[_DOUBTFUL] * (len(ordered) - 1), _BAD]
        colors = colors if ordered[0].above else colors[::-1]
    values = [None, *(one.value for one in ordered)]
    steps = [models.Threshold(value, color) for value, color in zip(values, colors, strict=True)]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _lines(panel: Panel, made: Any) -> None:
    made.legend(
        common_builders.VizLegendOptions()
        .show_legend(True)
        .placement(common.LegendPlacement.BOTTOM)
        .display_mode(common.LegendDisplayMode.TABLE)
        .calcs(["lastNotNull", "max"])
    )
    made.tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    made.fill_opacity(0).line_width(1).span_nulls(False)
    if panel.log:
        made.scale_distribution(
            common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        )
    if panel.limits:
        made.thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(
                common.GraphThresholdsStyleMode.DASHED
            )
        )
    made.data_links([_link(link) for link in panel.links])


def _stat(panel: Panel, made: Any) -> None:
    made.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    made.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    made.color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    made.no_value("-")
    made.data_links([_link(link) for link in panel.links])


def _table(panel: Panel, made: Any) -> None:
    """Labels as columns, then the queries' values; Grafana merges the rows of several queries by their labels."""
    several = len(panel.queries) > 1
    columns = {name: (heading, "string") for name, heading in panel.columns}
    for number, query in enumerate(panel.queries if panel.values else ()):
        name = f"Value #{chr(ord('A') + number)}" if several else "Value"
        columns[name] = (query.legend, query.unit or panel.unit)
    if several:
        made.with_transformation(models.DataTransformerConfig("merge", options={}))
    kept = {"include": {"names": [*columns]}}
    made.with_transformation(models.DataTransformerConfig("filterFieldsByName", options=kept))
    order = {"indexByName": {name: place for place, name in enumerate(columns)}}
    made.with_transformation(models.DataTransformerConfig("organize", options=order))
    for name, (heading, unit) in columns.items():
        properties = [
            models.DynamicConfigValue("displayName", heading),
            models.DynamicConfigValue("unit", unit),
        ]
        links = [_link(link).build() for link in panel.links if link.column == name]
        if links:
            properties.append(models.DynamicConfigValue("links", links))
        made.override_by_name(name, properties)


def _heatmap(panel: Panel, made: Any) -> None:
    """Each series is a row: the panel calculates nothing."""
    colors = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME)
    made.calculate(False)
    made.color(
        colors.scheme("Viridis")
        .fill("dark-orange")
        .exponent(0.5)
        .steps(64)
        .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
    )
    made.rows_frame(heatmap.RowsHeatmapOptions().layout(common.HeatmapCellLayout.UNKNOWN))
    # Grafana hides cells of 1e-9 and less by default: here zero is what one looks for.
    made.filter_values(heatmap.FilterValueRange().le(-1e300))
    made.cell_values(heatmap.CellValues().unit(panel.unit))
    made.y_axis(heatmap.YAxisConfig().axis_placement(common.AxisPlacement.LEFT).reverse(True))
    made.mode(common.TooltipDisplayMode.SINGLE)
    made.show_legend()


def _link(link: Link) -> Any:
    return builders.DashboardLink(link.title).url(link.url)
