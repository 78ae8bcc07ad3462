"""
Every query of every dashboard, against a real Prometheus that scrapes a real monitor: each gives data.

The run has all that there is to show: experts, adapters, checkpoints, two ranks, and findings about them. A second one
is as large as they come: heat maps stay maps of layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.monitor import large_model
from tests.monitor.grafana import DASHBOARDS, filled, marks, panels, variables
from tests.monitor.prometheus_server import PrometheusServer, running_prometheus
from tests.monitor.serving import serving
from tests.monitor.stream import Stream
from trainvitals_monitor.config import Config
from trainvitals_monitor.metrics import MAX_SERIES_PER_RUN

RUN = "showcase (1)"
LARGE = "large"
SECONDS = 10.0
each_board = pytest.mark.parametrize("name", DASHBOARDS)


def _showcase() -> list[bytes]:
    """Frames of a run of two ranks whose checkpoint holds an old expert bias."""
    stream = large_model.stream(RUN, layers=3, steps=4, world_size=2)
    stream.checkpoint()
    stream.step(values={"*": 1.0}, loss=2.0, lr=1e-4)
    stale = {"layers.0.moe.expert_bias": {"digest": 7, "stale_step": 3}}
    stream.checkpoint(rows=stale)
    stream.checkpoint("load")
    stream.step(values={"*": 1.0}, loss=2.0, lr=1e-4)
    stream.flush()
    return stream.frames


def _large() -> list[bytes]:
    """Frames of 10,000 tensors and 64 ranks; all but the first rank hold one tensor, to spare the test their tables."""
    infos = large_model.tensors()
    others = dict.fromkeys(range(1, 64), infos[:1])
    stream = Stream(infos, run=LARGE, world_size=64, by_rank=others)
    biases = [one.fqn for one in infos if one.fqn.endswith("expert_bias")]
    counters = [one.fqn for one in infos if one.fqn.endswith("tokens_per_expert")]
    for step in range(2):
        stream.step(
            values={"*": 1.0},
            updates={one.fqn: 1e-3 for one in infos if one.kind == "param"},
            gradients={one.fqn: 0.1 for one in infos if one.kind == "param"},
            extremes=dict.fromkeys(biases, (-1e-3 * step, 1e-3)),
            routing={fqn: {} for fqn in counters},
            loss=2.0,
            lr=1e-4,
        )
    stream.flush()
    return stream.frames


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Prometheus that has scraped both runs several times."""
    folder = tmp_path_factory.mktemp("dashboards")
    with serving(Config(store=str(folder / "store"))) as http:
        http.push_all(_showcase())
        http.push_all(_large())
        target = f"{http.base_url.host}:{http.base_url.port}"
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {"job_name": "trainvitals", "static_configs": [{"targets": [target]}]}
            ],
        }
        with running_prometheus(config, folder) as server:
            server.await_scrapes("trainvitals_run_step", 4)
            yield server


def _chosen(run: str = RUN) -> dict[str, str]:
    escaped = run.replace("(", "\\\\(").replace(")", "\\\\)")
    return {"job": "trainvitals", "run": escaped}


@each_board
def test_every_panel_has_data(name: str, prometheus: PrometheusServer) -> None:
    """Each query of each panel gives a series: as an instant for tables and numbers, as a range for the others."""
    empty = []
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            expr = filled(target["expr"], _chosen())
            if target.get("instant"):
                found = prometheus.query(expr)
            else:
                found = prometheus.query_range(expr, SECONDS)
            if not found:
                empty.append((panel["title"], expr))
    assert empty == []


@each_board
def test_every_annotation_has_data(name: str, prometheus: PrometheusServer) -> None:
    """Each marks the findings of the run, with the labels that its texts use."""
    for annotation in marks(DASHBOARDS[name]):
        found = prometheus.query_range(filled(annotation["expr"], _chosen()), SECONDS)
        assert {one["metric"]["detector"] for one in found} >= {"checkpoint-stale"}
        for one in found:
            assert set(annotation["tagKeys"].split(",")) <= set(one["metric"])


@each_board
def test_every_variable_has_values(name: str, prometheus: PrometheusServer) -> None:
    """label_values() of each variable offers something, as Grafana asks for it: by the series that match."""
    for variable in variables(DASHBOARDS[name]):
        if variable["type"] != "query":
            continue
        inside = variable["query"]["query"].removeprefix("label_values(").removesuffix(")")
        selector, _, label = inside.rpartition(",")
        series = prometheus.ask("series", **{"match[]": filled(selector, _chosen())})
        assert {one[label.strip()] for one in series}, variable["name"]


def test_legends_are_filled(prometheus: PrometheusServer) -> None:
    """Each {{label}} of a legend is a label of the series, so that no two of a panel look alike."""
    for board in DASHBOARDS.values():
        for panel in panels(board):
            if panel["type"] in ("table", "stat"):
                continue
            names: list[str] = []
            for target in panel["targets"]:
                for one in prometheus.query_range(filled(target["expr"], _chosen()), SECONDS):
                    legend = target["legendFormat"]
                    for label, value in one["metric"].items():
                        legend = legend.replace(f"{{{{{label}}}}}", value)
                    assert "{{" not in legend, (panel["title"], one["metric"])
                    names.append(legend)
            assert len(names) == len(set(names)), panel["title"]


def test_tables_have_their_columns(prometheus: PrometheusServer) -> None:
    """Each label that a table shows is in what its queries give."""
    for board in DASHBOARDS.values():
        for panel in panels(board):
            if panel["type"] != "table":
                continue
            labels = {
                one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]
            } - {f"Value #{letter}" for letter in "ABCDEFGH"} - {"Value"}  # fmt: skip
            for target in panel["targets"]:
                for one in prometheus.query(filled(target["expr"], _chosen())):
                    assert labels <= set(one["metric"]), (panel["title"], one["metric"])


def test_a_large_run_stays_below_the_cap(prometheus: PrometheusServer) -> None:
    """10,000 tensors of 64 ranks: what Prometheus stored is what the run says it has, and no more than the cap."""
    (tensors,) = prometheus.query(f'trainvitals_run_tensors{{run="{LARGE}"}}')
    assert float(tensors["value"][1]) > 10_000
    (ranks,) = prometheus.query(f'trainvitals_run_ranks{{run="{LARGE}"}}')
    assert float(ranks["value"][1]) == 64
    (count,) = prometheus.query(f'count({{run="{LARGE}"}})')
    assert 1000 < float(count["value"][1]) <= MAX_SERIES_PER_RUN


def test_heat_maps_of_a_large_run_are_of_layers(prometheus: PrometheusServer) -> None:
    """A row a layer, in the order of the model: no row a tensor, whatever the size."""
    maps = [panel for board in DASHBOARDS.values() for panel in panels(board) if panel["type"] == "heatmap"]  # fmt: skip
    assert maps
    for panel in maps:
        (target,) = panel["targets"]
        found: list[dict[str, Any]] = prometheus.query_range(
            filled(target["expr"], _chosen(LARGE)), SECONDS
        )
        layers = [one["metric"]["layer"] for one in found]
        assert all(set(one["metric"]) == {"layer"} for one in found)
        assert 20 < len(layers) <= large_model.LAYERS + 2, panel["title"]
        assert layers == sorted(layers)


def test_panels_of_a_large_run_are_readable(prometheus: PrometheusServer) -> None:
    """What names tensors names few: at most the offenders, or the subjects of findings."""
    for panel in panels(DASHBOARDS["run"]):
        for target in panel["targets"]:
            if "tensor" in target["expr"]:
                found = prometheus.query(filled(target["expr"], _chosen(LARGE)))
                assert len(found) <= 32, panel["title"]
