"""
Who is woken, by the committed rules and routes on a real Prometheus and a real Alertmanager: once, for what is news, by
texts that say what to do; and not by the dead, the known and what follows from something else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.alerting import Woken, slack, wait_until, woken
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor.config import Config
from trainvitals_monitor.generate.alerting.alert_rule import DOCS
from trainvitals_monitor.metrics import scrape

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PUBLIC = "https://vitals.example/team"
BIASES = [f"layers.{layer}.moe.expert_bias" for layer in range(4)]
SETTLED_S = 6.0
"""Longer than three of the groups' intervals: what has not arrived by then does not."""


@contextmanager
def street(folder: Path, silence_s: int | None = None) -> Iterator[tuple[Client, Woken]]:
    """A monitor that people reach at PUBLIC, and all that comes after it."""
    with (
        serving(Config(store=str(folder / "store"), public_url=PUBLIC)) as http,
        woken(str(http.base_url).rstrip("/"), folder, silence_s) as rest,
    ):
        yield http, rest


def experts(run: str, world_size: int = 1) -> Stream:
    """A run with four expert biases, two steps old, and a save."""
    stream = Stream(
        ["w", *(tensor(name, kind="buffer") for name in BIASES)], run=run, world_size=world_size
    )
    stream.optimizers([["w"]])
    stream.step(values={"*": 1.0}, loss=2.0)
    stream.checkpoint()
    stream.step(values={"*": 1.0}, loss=2.0)
    return stream


def replaced(stream: Stream, names: list[str]) -> None:
    """A step at which these are replaced while somebody holds the old ones."""
    for name in names:
        stream.slot(name, "object", "storage", outlived=3)
    stream.step(values={"*": 1.0}, loss=2.0)


def push(http: Client, stream: Stream, sent: int = 0) -> int:
    """Send what was not sent yet; how much there is now."""
    stream.flush()
    http.push_all(stream.frames[sent:])
    return len(stream.frames)


def test_one_finding_wakes_once_and_says_all(tmp_path: Path) -> None:
    """
    Tensors that join it do not page again; acknowledged it is over. The alert names the run, the detector and tensors, what
    to do, the last clean save, and leads to the finding through --public-url and to its manual.
    """
    with street(tmp_path) as (http, rest):
        stream = experts("moe")
        for _ in range(3):
            replaced(stream, BIASES[:1])
        sent = push(http, stream)
        of_it = {"alertname": "TrainvitalsSlotReplaced", "run": "moe"}
        wait_until(lambda: rest.arrived(**of_it), lambda: rest.prometheus.ask("alerts"))
        for _ in range(3):
            replaced(stream, BIASES)
        push(http, stream, sent)
        named = 'count(trainvitals_offender_active{run="moe"}) == 4'
        wait_until(lambda: rest.prometheus.query(named), lambda: named)
        time.sleep(SETTLED_S)
        (alert,) = rest.arrived(**of_it)
        assert (alert["receiver"], alert["status"]) == ("page", "firing")
        (found,) = [
            one
            for one in http.get_json("/api/v1/runs/moe/findings")["findings"]
            if one["detector"] == "slot-replaced"
        ]
        assert len(found["subjects"]) == 4
        _says_all(alert, found["id"])
        wanted = {"run": "moe", "finding": found["id"], "reason": "Ann: known"}
        assert http.post("/api/v1/mutes", json=wanted).status_code == 200
        wait_until(
            lambda: rest.arrived(**of_it)[-1]["status"] == "resolved",
            lambda: rest.arrived(**of_it),
        )
        time.sleep(SETTLED_S)
        assert [one["status"] for one in rest.arrived(**of_it)] == ["firing", "resolved"]


def _says_all(alert: dict[str, Any], finding: str) -> None:
    said = alert["annotations"]
    assert said.keys() == {
        "summary", "description", "action", "runbook_url", "finding_url", "tensors", "last_clean_save",
    }  # fmt: skip
    assert "(run moe)" in said["summary"]
    assert "Update in place" in said["action"]
    assert said["finding_url"] == f"{PUBLIC}/runs/moe#{finding}"
    assert said["finding_url"] in said["description"]
    assert BIASES[0] in said["tensors"]
    assert said["last_clean_save"] == "step 1"
    page, _, heading = said["runbook_url"].removeprefix(DOCS).partition("#")
    assert f"\n## {heading}\n" in (ROOT / "docs" / page).read_text()
    assert not re.search(r"\{\{|<no value>|<error", "".join(said.values()))


def test_a_vanished_run_wakes_once_and_the_dead_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One alert whatever the ranks; none of a run that said that it ends, whose series end soon after, nor of one that was
    muted as a whole.
    """
    monkeypatch.setattr(scrape, "LINGER_S", 8.0)
    with street(tmp_path, silence_s=4) as (http, rest):
        for name in ("gone", "ended", "muted"):
            stream = experts(name, world_size=4)
            if name == "ended":
                stream.close()
            push(http, stream)
        wanted = {"run": "muted", "reason": "Ann: killed it"}
        assert http.post("/api/v1/mutes", json=wanted).status_code == 200
        wait_until(lambda: rest.arrived(run="gone"), lambda: rest.prometheus.ask("alerts"))
        over = 'absent(trainvitals_run_step{run="ended"})'
        wait_until(lambda: rest.prometheus.query(over), lambda: over)
        time.sleep(SETTLED_S)
        (alert,) = rest.arrived(run="gone")
        assert alert["labels"]["alertname"] == "TrainvitalsRunVanished"
        assert alert["receiver"] == "page"
        assert alert["annotations"]["run_url"] == f"{PUBLIC}/runs/gone"
        assert "any of its ranks for " in alert["annotations"]["description"]
        assert rest.arrived(run="ended") == rest.arrived(run="muted") == []


def test_a_monitor_that_is_gone_is_all_that_is_told(tmp_path: Path) -> None:
    """Once, with what to do; beside it at most the watchdog, which shows that the way is open."""
    with woken("http://127.0.0.1:9", tmp_path) as rest:
        gone = {"alertname": "TrainvitalsMonitorDown", "job": "trainvitals"}
        wait_until(lambda: rest.arrived(**gone), lambda: rest.prometheus.ask("alerts"))
        time.sleep(SETTLED_S)
        (alert,) = rest.arrived(**gone)
        assert alert["receiver"] == "page"
        assert "start it again on the same store" in alert["annotations"]["action"]
        others = [one["labels"]["alertname"] for one in rest.arrived() if one != alert]
        assert set(others) <= {"TrainvitalsWatchdog"}


def test_slack_is_told_what_to_do(tmp_path: Path) -> None:
    """The committed message: what is wrong, which tensors, what to do, and both links."""
    said = {
        "summary": "A buffer was replaced (run moe)",
        "description": "Holders of the old one are stale.",
        "action": "Update in place.",
        "tensors": "moe.expert_bias ",
        "last_clean_save": "step 7",
        "finding_url": f"{PUBLIC}/runs/moe#one",
        "runbook_url": f"{DOCS}detectors.md#slot-replaced",
    }
    labels = {"alertname": "TrainvitalsSlotReplaced", "severity": "critical", "run": "moe"}
    with slack(tmp_path) as (alertmanager, webhook):
        alert = {"labels": labels, "annotations": said}
        assert httpx.post(f"http://{alertmanager}/api/v2/alerts", json=[alert]).status_code == 200
        wait_until(lambda: webhook.got, lambda: "nothing arrived")
    (message,) = webhook.got
    assert message["channel"] == "#training-pages"
    (shown,) = message["attachments"]
    assert shown["title"] == "TrainvitalsSlotReplaced moe"
    assert [one for one in said.values() if one.strip() not in shown["text"]] == []
    assert "What to do: Update in place." in shown["text"]


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (
            # A critical alert holds back the warnings of its run, and those alone.
            [("SlotReplaced", "critical", "a"), ("ExpertDead", "warning", "a"), ("ExpertDead", "warning", "b")],
            {("SlotReplaced", "a", "page"), ("ExpertDead", "b", "queue")},
        ),
        (
            # A monitor that is down is all that is told of what depends on it.
            [("MonitorDown", "critical", ""), ("RunVanished", "critical", "a"), ("FactsLate", "warning", "b")],
            {("MonitorDown", "", "page")},
        ),
        (
            [("MonitorNotReady", "critical", ""), ("RunVanished", "critical", "a"), ("SlotReplaced", "critical", "b")],
            {("MonitorNotReady", "", "page"), ("SlotReplaced", "b", "page")},
        ),
        ([("AgentCostly", "info", "a"), ("Watchdog", "none", "")], {("Watchdog", "", "watchdog")}),
    ],
)  # fmt: skip
def test_what_follows_from_something_else_is_held_back(
    tmp_path: Path, known: list[tuple[str, str, str]], told: set[tuple[str, str, str]]
) -> None:
    """By the inhibitions and routes of the committed configuration."""
    with woken("http://127.0.0.1:9", tmp_path) as rest:
        alerts = [
            {
                "labels": {
                    "alertname": f"Trainvitals{name}",
                    "severity": severity,
                    "job": "elsewhere",
                    **({"run": run} if run else {}),
                }
            }
            for name, severity, run in known
        ]
        posted = httpx.post(f"http://{rest.alertmanager}/api/v2/alerts", json=alerts)
        assert posted.status_code == 200, posted.text

        def arrived() -> set[tuple[str, str, str]]:
            return {
                (
                    one["labels"]["alertname"].removeprefix("Trainvitals"),
                    one["labels"].get("run", ""),
                    one["receiver"],
                )
                for one in rest.arrived(job="elsewhere")
            }

        wait_until(lambda: arrived() >= told, arrived)
        time.sleep(SETTLED_S)
        assert arrived() == told
