"""
The dashboards for Grafana as files: dashboard-linter's rules, the layout, and that they ask only for what METRICS holds.

test_dashboard_queries.py runs their queries. No test opens them in Grafana.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.monitor.grafana import (
    DASHBOARDS,
    FOLDER,
    ROOT,
    marks,
    panels,
    queries,
    selectors,
    variables,
)
from trainvitals_monitor.cli import cli
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.generate import DEPLOYED
from trainvitals_monitor.generate.dashboards import BOARDS, files, provisioning
from trainvitals_monitor.generate.dashboards.board import Board, limit
from trainvitals_monitor.generate.dashboards.queries import added, per_second, select
from trainvitals_monitor.metrics import METRICS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPECS = {spec.exposed: spec for spec in METRICS}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"none", "short", "percentunit", "bytes", "Bps", "s", "dateTimeFromNow", "sci", "cps", "bool", "string"}  # fmt: skip
each_board = pytest.mark.parametrize("board", DASHBOARDS.values(), ids=DASHBOARDS)


def test_every_board_has_its_file() -> None:
    """What BOARDS declares is committed, and nothing else is."""
    assert set(DASHBOARDS) == {board.name for board in BOARDS}
    assert len({board.uid for board in BOARDS}) == len(BOARDS)


@each_board
def test_the_head(board: dict[str, Any]) -> None:
    """Title, description, tag; not editable; a schema of Grafana 11; links to the others that keep run and time."""
    assert board["title"].startswith("trainvitals / ")
    assert board["description"].endswith(".")
    assert board["tags"] == ["trainvitals"]
    assert board["editable"] is False
    assert board["schemaVersion"] >= 39
    assert re.fullmatch(r"trainvitals-[a-z-]+", board["uid"])
    assert "id" not in board or board["id"] is None
    (link,) = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["trainvitals"])
    assert link["includeVars"]
    assert link["keepTime"]


@each_board
def test_variables(board: dict[str, Any]) -> None:
    """Data source, job and instance as dashboard-linter wants them; each says what it is and is read anew."""
    found = {one["name"]: one for one in variables(board)}
    assert list(found)[:3] == ["datasource", "job", "instance"]
    source = found["datasource"]
    assert (source["type"], source["query"], source["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )
    for name, variable in found.items():
        assert variable["description"].endswith(".")
        if name == "datasource":
            continue
        assert variable["type"] == "query"
        assert variable["refresh"] == 2
        assert variable["datasource"] == SOURCE
        if name in ("job", "instance"):
            assert variable["label"] == name.capitalize()
            assert variable["multi"]
            assert variable["allValue"] == ".+"


@each_board
def test_panels_say_what_they_show(board: dict[str, Any]) -> None:
    """A title of their own, a description of at least a sentence, a known unit, the chosen data source, a query."""
    titles = [panel["title"] for panel in panels(board)]
    assert len(titles) == len(set(titles)), "two panels of one title"
    for panel in panels(board):
        assert panel["title"]
        assert len(panel["description"]) > 25, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == SOURCE
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"]
        assert [t["refId"] for t in panel["targets"]] == list("ABCDEFGH")[: len(panel["targets"])]


@each_board
def test_panels_have_places_of_their_own(board: dict[str, Any]) -> None:
    """Ids are unique; nothing lies over another or beyond the 24 columns; rows are full or end a section."""
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    cells: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["w"] > 0
        assert at["h"] > 0
        assert at["x"] + at["w"] <= 24
        for x, y in itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        ):
            assert (x, y) not in cells, f"{panel['title']} lies over {cells[x, y]}"
            cells[x, y] = panel["title"]


@each_board
def test_queries_ask_for_what_there_is(board: dict[str, Any]) -> None:
    """Every series that is asked for is declared in METRICS, with the labels used; job and instance are matched."""
    asked = [expr for _, expr in queries(board)]
    for expr in asked:
        assert selectors(expr), expr
        for name, matchers in selectors(expr):
            labels = {*SPECS[name].labels, "job", "instance"}
            assert set(matchers) <= labels, expr
            assert matchers["job"] == ("=~", "$job"), expr
            assert matchers["instance"] == ("=~", "$instance"), expr
    for variable in variables(board):
        expr = (
            str((variable.get("query") or {}).get("query")) if variable["type"] == "query" else ""
        )
        for name, matchers in selectors(expr):
            label = expr.rpartition(",")[2].strip(" )")
            assert {label, *matchers} <= {*SPECS[name].labels, "job", "instance"}, expr


@each_board
def test_queries_use_the_boards_own_variables(board: dict[str, Any]) -> None:
    """No query waits for a variable that its dashboard lacks."""
    known = {one["name"] for one in variables(board)} | {"__rate_interval", "__range"}
    for _, expr in queries(board):
        assert set(re.findall(r"\$(\w+)", expr)) <= known, expr


@each_board
def test_legends_and_groups_name_labels_that_there_are(board: dict[str, Any]) -> None:
    """{{label}} in a legend and by (label) in a query are labels of the metrics asked for."""
    for panel in panels(board):
        for target in panel["targets"]:
            labels = {"job", "instance"}
            for name, _ in selectors(target["expr"]):
                labels |= set(SPECS[name].labels)
            said = re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
            for group in re.findall(
                r"(?:by|on|group_left|ignoring) ?\(([\w, ]+)\)", target["expr"]
            ):
                said += group.replace(",", " ").split()
            assert set(said) <= labels, (panel["title"], target["expr"])


@each_board
def test_counters_are_rates(board: dict[str, Any]) -> None:
    """A counter is only looked at through rate or increase over $__rate_interval; a gauge never is."""
    for where, expr in queries(board):
        for called, name in re.findall(
            r"(?:\b(rate|increase)\()?((?:trainvitals|process)_\w+)\{", expr
        ):
            counter = SPECS[name].type == "counter"
            assert counter == bool(called), (where, expr)
        for ranged in re.findall(r"(?:rate|increase|deriv)\([^\[]*\[([^\]]+)\]", expr):
            assert ranged == "$__rate_interval", (where, expr)


def test_every_detectors_threshold_can_be_a_line() -> None:
    """A line's value and reason are the detector's own."""
    for detector in DETECTORS:
        for threshold in detector.thresholds:
            line = limit(detector, threshold.name)
            assert line.value == threshold.default
            assert threshold.reason in line.said


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: one.name)
def test_lines_are_where_the_detectors_have_them(board: Board) -> None:
    """What the file draws in red begins at the declared thresholds."""
    drawn = {
        panel["title"]: panel["fieldConfig"]["defaults"] for panel in panels(DASHBOARDS[board.name])
    }
    for row in board.rows:
        for panel in row.panels:
            steps = [step["value"] for step in drawn[panel.title]["thresholds"]["steps"]]
            assert sorted(one.value for one in panel.limits) == steps[1:]
            assert steps[0] is None


def test_run_marks_findings_in_its_time_series() -> None:
    """Open findings are regions with the detector's name; the run, layer and expert dashboards have them."""
    for name in ("run", "moe", "lora", "checkpoints"):
        (marked,) = marks(DASHBOARDS[name])
        assert marked["titleFormat"] == "{{detector}}"
        assert marked["enable"]
        assert marked["datasource"] == SOURCE


def test_links_lead_to_dashboards_that_exist() -> None:
    """Each /d/UID is one of ours and keeps the run, the data source and the time."""
    uids = {board["uid"] for board in DASHBOARDS.values()}
    found = []
    for board in DASHBOARDS.values():
        for url in re.findall(r'"/d/[^"]+"', json.dumps(board)):
            uid, _, rest = url.strip('"')[3:].partition("?")
            assert uid in uids
            assert "var-run=${__data.fields.run}" in rest
            assert "${datasource:queryparam}" in rest
            assert "${__url_time_range}" in rest
            found.append(uid)
    assert found


def test_what_is_not_declared_is_refused() -> None:
    """A dashboard that asks for an unknown metric or label can't be generated, nor one that rates a gauge."""
    with pytest.raises(ValueError, match="no metric"):
        select("trainvitals_nonsense")
    with pytest.raises(ValueError, match="no label"):
        select("trainvitals_run_step", tensor="x")
    for wrong in (per_second, added):
        with pytest.raises(ValueError, match="no counter"):
            wrong("trainvitals_run_step")


def test_provisioning_finds_the_files() -> None:
    """The data source and the folder of dashboards; Grafana reads JSON as the YAML that it is."""
    folder = ROOT / "dashboards" / "grafana" / "provisioning"
    source = json.loads((folder / "datasources" / "trainvitals.yml").read_text().partition("\n")[2])
    (one,) = source["datasources"]
    assert (one["type"], one["url"]) == ("prometheus", "$TRAINVITALS_PROMETHEUS_URL")
    text = (folder / "dashboards" / "trainvitals.yml").read_text()
    (one,) = json.loads(text.partition("\n")[2])["providers"]
    assert one["options"]["path"] == provisioning.FOLDER
    assert one["allowUiUpdates"] is False


def test_generate_writes_the_committed_files(tmp_path: Path) -> None:
    """`trainvitals generate --out` gives what is committed, and the second time nothing."""
    for expected in (f"{len(DEPLOYED)} are new", "0 are new"):
        done = CliRunner().invoke(cli, ["generate", "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert expected in done.output
    for path, _ in DEPLOYED:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), path


def test_without_the_sdk_the_files_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who installed with pip has no SDK: the files come out of the package as they were made for it."""
    monkeypatch.setattr(files, "find_spec", {}.get)
    for board in BOARDS:
        assert files.dashboard_file(board) == (FOLDER / f"{board.name}.json").read_text()
    monkeypatch.setattr(files, "READY", ())
    with pytest.raises(FileNotFoundError, match="is in none of"):
        files.dashboard_file(BOARDS[0])


def test_the_wheel_has_the_files() -> None:
    """Where the package looks for them is where the build puts them."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]  # fmt: skip
    inside = wheel["force-include"]["dashboards/grafana/dashboards"]
    package = "/".join(files.READY[0].parts[-len(inside.split("/")) :])
    assert package == inside
    assert files.READY[1] == FOLDER
