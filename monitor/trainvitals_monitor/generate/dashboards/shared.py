"""
Panels and variables that several dashboards share.
"""

from __future__ import annotations

from trainvitals_monitor.generate.dashboards.board import Limit, Link, Panel, Query, Variable
from trainvitals_monitor.generate.dashboards.queries import select

RUN = Variable(
    name="run",
    label="Run",
    description="The run that is shown.",
    expr='label_values(trainvitals_run_step{job=~"$job", instance=~"$instance"}, run)',
    several=False,
)
RUNS = Variable(
    name="run",
    label="Run",
    description="The runs that are shown.",
    expr='label_values(trainvitals_run_step{job=~"$job", instance=~"$instance"}, run)',
)
OPEN = f"{select('trainvitals_finding_active')} > 0"
"""What is marked in time series: kinds of findings while one of them is open."""


def layers_of(metric: str) -> Variable:
    """The choice among the layers that a metric has."""
    return Variable(
        name="layer",
        label="Layer",
        description="Layers of the model: names up to the first number.",
        expr=f'label_values({metric}{{job=~"$job", instance=~"$instance", run=~"$run"}}, layer)',
    )


ANY = Limit(1, "Red from 1 on.")
"""For counts of what should not be."""


def one(metric: str, legend: str) -> Query:
    """The run's value."""
    return Query(f"max({select(metric)})", legend)


def by(label: str, metric: str, **matchers: str) -> Query:
    """A series for each value of a label."""
    return Query(f"max by ({label}) ({select(metric, **matchers)})", f"{{{{{label}}}}}")


def number(
    title: str, description: str, query: Query, *limits: Limit, unit: str = "none", width: int = 4
) -> Panel:
    """What a query says now, in large type."""
    return Panel(
        title=title,
        description=description,
        kind="stat",
        unit=unit,
        width=width,
        height=4,
        limits=limits,
        queries=(query,),
    )


def findings_table(title: str, description: str, **matchers: str) -> Panel:
    """Open findings, each with a link to its page on the monitor."""
    return Panel(
        title=title,
        description=description,
        kind="table",
        unit="none",
        width=24,
        queries=(
            Query(
                f"max by (run, severity, detector, group, page) ({select('trainvitals_finding_info', **matchers)})"
            ),
        ),
        columns=(
            ("severity", "Severity"),
            ("run", "Run"),
            ("detector", "Detector"),
            ("group", "Tensors"),
            ("page", "Page"),
        ),
        values=False,
        links=(Link("Open the finding on the monitor", "${__value.raw}", "page"),),
    )


def by_layer(metric: str, *, of: str = "max", **matchers: str) -> Query:
    """A series a layer, whatever the tensors in it: the largest of them, or another aggregation."""
    return Query(f"{of} by (layer) ({select(metric, **matchers)})", "{{layer}}")


def layer_map(
    title: str, description: str, metric: str, unit: str = "none", **matchers: str
) -> Panel:
    """A heat map of layers over time."""
    return Panel(
        title=title,
        description=f"{description} A row a layer, time from left to right.",
        kind="heatmap",
        unit=unit,
        queries=(by_layer(metric, **matchers),),
        height=9,
    )
