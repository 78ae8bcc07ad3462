"""
/metrics: every line as a golden file has it, by Prometheus' rules, bounded, and ending with the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitor.raw_frames import frame, header
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream, tensor
from trainvitals_monitor import metrics
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.metrics import METRICS
from trainvitals_monitor.refusal import FRAME_REASONS

GOLDEN = Path(__file__).parent / "metrics.golden"
# What a clock or a file system decides, and the detectors but for one, which stands for all.
VARYING = re.compile(
    r"^(trainvitals_(?:detector_seconds_total|monitor_(?:ingest_seconds_total|store_bytes|frame_bytes_total))\S*) .*$",
    re.M,
)
OTHERS = re.compile(r'^trainvitals_detector_\w+\{detector="(?!slot-replaced")\S+ .*\n', re.M)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Client]:
    """A monitor with room for the series of every run."""
    with serving(Config(store=str(tmp_path))) as client:
        yield client


def _stream(run: str = 'moe "one"\\') -> Stream:
    stream = Stream(
        ["layers.0.w", tensor("moe.expert_bias", kind="buffer")], run=run, step_offset=100
    )
    stream.optimizers([["layers.0.w"]])
    for step in range(1, 4):
        if step == 3:
            stream.slot("moe.expert_bias", "object", "storage", outlived=3)
        stream.step(
            values={"*": 1.0},
            updates={"layers.0.w": 0.1},
            gradients={"layers.0.w": 1.0},
            loss=2.5,
            lr=[3e-4],
        )
    stream.flush()
    return stream


def test_the_output_is_the_golden_file(http: Client) -> None:
    """One run with a finding, one refused frame: every name, label and value. UPDATE_GOLDEN=1 writes it anew."""
    stream = _stream()
    http.push_all(stream.frames)
    http.push(stream.frames[0])
    http.push(b"nonsense")
    text = OTHERS.sub("", VARYING.sub(r"\1 ?", http.get("/metrics").text))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text.splitlines() == GOLDEN.read_text().splitlines()


def test_the_output_can_be_parsed_and_holds_every_declared_metric(http: Client) -> None:
    """Prometheus' own parser reads it; what METRICS declares is there with its type and help, and nothing else is."""
    http.push_all(_stream().frames)
    families = {one.name: one for one in text_string_to_metric_families(http.get("/metrics").text)}
    assert set(families) == {spec.name if spec.type != "info" else spec.exposed for spec in METRICS}
    for spec in METRICS:
        family = families[spec.name if spec.type != "info" else spec.exposed]
        assert family.documentation == spec.help
        for sample in family.samples:
            assert sample.name == spec.exposed
            assert set(sample.labels) == set(spec.labels)


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_names_follow_prometheus(spec: metrics.MetricSpec) -> None:
    """Prefix, base units, no unit abbreviations, no _total on a gauge, help as a sentence."""
    assert re.fullmatch(r"trainvitals_[a-z]+(_[a-z]+)*", spec.name)
    assert not spec.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent|pct)(_|$)", spec.name)
    assert spec.help.endswith(".")
    assert len({spec.name for spec in METRICS}) == len(METRICS)


def test_finding_series_go_to_zero_and_then_stay(http: Client) -> None:
    """A resolved finding is 0, not absent: a rule sees that it is over."""
    stream = _stream("run")
    sent = len(stream.frames)
    http.push_all(stream.frames)
    labels = {"run": "run", "detector": "slot-replaced"}
    assert http.metric("trainvitals_finding_active", **labels) == 1
    stream.restart(closed=False)
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames[sent:])
    assert (
        'trainvitals_finding_active{detector="slot-replaced",run="run"' in http.get("/metrics").text
    )
    assert http.metric("trainvitals_finding_active", **labels) == 0
    assert http.metric("trainvitals_findings_opened_total", **labels) == 1


def test_a_runs_series_end_with_the_run(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was closed, and the time for some last scrapes, nothing of it is exported any more."""
    stream = _stream("run")
    stream.close()
    http.push_all(stream.frames)
    assert 'run="run"' in http.get("/metrics").text
    monkeypatch.setattr(metrics, "LINGER_S", -1.0)
    assert 'run="run"' not in http.get("/metrics").text
    assert http.get_json("/api/v1/runs/run")["phase"] == "closed"


def test_runs_beyond_the_cap_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones heard of stay."""
    monkeypatch.setattr(metrics, "MAX_RUNS", 2)
    with serving(Config(store=str(tmp_path), limits=Limits(live_runs=8))) as http:
        for name in "abcde":
            http.push_all([frame(header(run=name))])
        text = http.get("/metrics").text
        assert set(re.findall(r'run="(\w)"', text)) == {"d", "e"}
        assert http.metric("trainvitals_runs_left_out") == 3


def test_labels_of_refusals_are_known_beforehand(http: Client) -> None:
    """No word of a sender becomes a label."""
    http.push(b"nonsense")
    http.push(frame(header(run="../x")))
    reasons = re.findall(r'frames_refused_total\{reason="([^"]+)"', http.get("/metrics").text)
    assert sorted(reasons) == sorted(FRAME_REASONS)


def test_ready_is_a_metric(http: Client) -> None:
    """1 while frames are taken."""
    assert http.metric("trainvitals_monitor_ready") == 1
