"""
/metrics: every line as a golden file has it, by Prometheus' rules, bounded, and ending with the run.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.monitor.large_model import stream as large_stream
from tests.monitor.prometheus import tool
from tests.monitor.raw_frames import frame, header
from tests.monitor.serving import Client, serving
from tests.monitor.stream import Stream, tensor
from trainvitals.link import BEHIND
from trainvitals_monitor.config import Config, Limits
from trainvitals_monitor.metrics import (
    MAX_SERIES_PER_RUN,
    METRICS,
    MetricSpec,
    scrape,
    seats,
    wants_openmetrics,
)
from trainvitals_monitor.metrics.block import Series
from trainvitals_monitor.metrics.layout import layer_names
from trainvitals_monitor.refusal import FRAME_REASONS

GOLDEN = Path(__file__).parent / "metrics.golden"
# What a clock or a file system decides, and the detectors but for one, which stands for all.
VARYING = re.compile(
    r"^((?:process_|trainvitals_(?:detector_seconds_total|run_(?:last_seen|frame_bytes)|monitor_(?:ingest_|store_bytes|"
    r"frame_bytes_total|scrape_))).*?) \S*$",
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
def test_names_follow_prometheus(spec: MetricSpec) -> None:
    """Prefix, base units, no unit abbreviations, no _total on a gauge, help as a sentence."""
    assert re.fullmatch(r"(trainvitals|process)_[a-z]+(_[a-z]+)*|trainvitals_[a-z]+", spec.name)
    assert not spec.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent|pct)(_|$)", spec.name)
    assert spec.help.endswith(".")
    assert spec.help[0].isupper() or spec.help[0].isdigit()
    assert all(re.fullmatch(r"[a-z]+", label) for label in spec.labels)
    unbounded = {"step", "time", "timestamp", "id", "pointer", "address", "path", "message", "host"}
    assert not unbounded & set(spec.labels)
    assert "timestamp" not in spec.name or spec.name.endswith("_timestamp_seconds")
    # The units that Prometheus calls base units, and words that are none.
    assert not re.search(r"_(bits|minutes|hours|days|milli|micro|kilo|mega)", spec.name)
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
        'trainvitals_finding_active{run="run",detector="slot-replaced"' in http.get("/metrics").text
    )
    assert http.metric("trainvitals_finding_active", **labels) == 0
    assert http.metric("trainvitals_findings_opened_total", **labels) == 1


def test_a_runs_series_end_with_the_run(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was closed, and the time for some last scrapes, nothing of it is exported any more."""
    stream = _stream("run")
    stream.close()
    http.push_all(stream.frames)
    assert 'run="run"' in http.get("/metrics").text
    monkeypatch.setattr(scrape, "LINGER_S", -1.0)
    assert 'run="run"' not in http.get("/metrics").text
    assert http.get_json("/api/v1/runs/run")["phase"] == "closed"


def test_runs_beyond_the_cap_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest stay."""
    monkeypatch.setattr(scrape, "MAX_RUNS", 2)
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


def _samples(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_openmetrics_is_answered_to_who_asks_for_it(http: Client) -> None:
    """What Prometheus sends as Accept; the strict parser reads it, and it holds the same samples."""
    http.push_all(_stream().frames)
    plain = http.get("/metrics", headers={"accept": "*/*"})
    accept = (
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
    )
    asked = http.get("/metrics", headers={"accept": accept, "accept-encoding": "gzip"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert asked.headers["content-encoding"] == "gzip"
    families = {one.name: one for one in openmetrics_families(asked.text)}
    assert set(families) == {spec.name for spec in METRICS}
    assert all(families[spec.name].type == spec.type for spec in METRICS)
    same = [VARYING.sub("", "\n".join(_samples(one.text))) for one in (plain, asked)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.4", True),
        ("text/plain;version=0.0.4,application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0,text/plain;q=0.1", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)  # fmt: skip
def test_the_better_liked_format_is_answered(accept: str, openmetrics: bool) -> None:
    """By the q-values of the Accept header; text where nothing is said."""
    assert wants_openmetrics(accept) == openmetrics


def test_frames_that_waited_on_disk_are_counted(http: Client) -> None:
    """By run: how many came from there, and how many wait there still; a rank's last word counts."""
    frames = _stream("run").frames
    for number, blob in enumerate(frames):
        http.push(blob, **{BEHIND: str(len(frames) - number)})
    assert http.metric("trainvitals_run_frames_spooled_total", run="run") == len(frames)
    assert http.metric("trainvitals_run_waiting_frames", run="run") == 1
    for told in ("nonsense", "-3", "9" * 40):
        http.push(frames[0], **{BEHIND: told})
        assert http.metric("trainvitals_run_waiting_frames", run="run") == 0
    assert http.metric("trainvitals_run_frames_spooled_total", run="run") == len(frames)


def test_promtool_finds_no_fault(http: Client) -> None:
    """`promtool check metrics`: names, units, help, types."""
    http.push_all([*_stream().frames, *large_stream("large", layers=2).frames])
    text = http.get("/metrics").text
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert not done.stdout + done.stderr
    assert done.returncode == 0


def test_bounds_add_up_to_less_than_the_cap() -> None:
    """By construction: whatever the model, a run has no more series than its cap."""
    assert sum(spec.bound for spec in METRICS if "run" in spec.labels) <= MAX_SERIES_PER_RUN


def test_the_largest_model_stays_within_its_bounds(tmp_path: Path) -> None:
    """10,000 tensors in 126 layers, 882 adapters: each metric within its bound, the rest counted."""
    with serving(Config(store=str(tmp_path), limits=Limits(body_bytes=1 << 28))) as http:
        http.push_all(large_stream("large").frames)
        text = http.get("/metrics").text
        assert http.metric("trainvitals_run_tensors", run="large") > 10_000
        own = Counter(line.partition("{")[0] for line in _samples(text) if 'run="large"' in line)
        for spec in METRICS:
            assert own[spec.exposed] <= spec.bound, spec.name
        assert 1500 < own.total() <= MAX_SERIES_PER_RUN
        assert http.metric("trainvitals_run_series", run="large") == own.total()
        assert http.metric("trainvitals_run_series_left_out", run="large") == 4 * (882 - 192)


def test_the_worst_of_many_adapters_have_series(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where there is no room for all: half of the places over the whole depth, the others for those that grow most. Who has a
    place keeps it until another is clearly worse.
    """
    monkeypatch.setattr(seats, "MAX_ADAPTERS", 4)
    names = [f"layers.{layer}.wq.lora_{letter}.weight" for layer in range(10) for letter in "AB"]
    stream = Stream(names, run="run")
    factors, norms = dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0)

    def named_after(growth: dict[int, float], steps: int) -> set[int]:
        factors.update({f"layers.{at}.wq.lora_A.weight": factor for at, factor in growth.items()})
        for _ in range(steps):
            norms.update({name: norm * factors[name] for name, norm in norms.items()})
            stream.step(values=norms)
        stream.flush()
        http.push_all(stream.frames[sent[0] :])
        sent[0] = len(stream.frames)
        text = http.get("/metrics").text
        found = re.findall(r"lora_growth_ratio\{.*?layers\.(\d+)\.wq", text)
        return {int(layer) for layer in found}

    sent = [0]
    assert named_after({3: 1.3, 7: 1.2, 5: 1.1}, 5) == {0, 3, 7, 9}
    assert named_after({5: 1.3}, 5) == {0, 3, 7, 9}
    assert named_after({5: 2.0}, 5) == {0, 3, 5, 9}
    assert http.metric("trainvitals_run_series_left_out", run="run") == 4 * 6
    assert http.metric("trainvitals_lora_growth_ratio", layer="layers.03") == pytest.approx(0.3)


def test_series_stay_where_nothing_tells_tensors_apart(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a second look nothing is known of growth: places are not dealt out anew at each scrape."""
    monkeypatch.setattr(seats, "MAX_ADAPTERS", 4)
    names = [f"layers.{layer}.wq.lora_{letter}.weight" for layer in range(10) for letter in "AB"]
    stream = Stream(names, run="run")
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames)
    seen = [
        set(re.findall(r"lora_norm\{.*?layers\.(\d+)\.wq", http.get("/metrics").text))
        for _ in "abc"
    ]
    assert [len(one) for one in seen] == [4] * 3
    assert seen[0] == seen[1] == seen[2]


def test_caps_hold_whatever_comes(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's and the monitor's: what is most needed stays, and what is left out is counted."""
    for name in "abc":
        http.push_all(large_stream(name, layers=4).frames)
    monkeypatch.setattr(scrape, "MAX_SERIES_PER_RUN", 60)
    monkeypatch.setattr(scrape, "MAX_SERIES", 140)
    monkeypatch.setattr(scrape, "RESERVED", 38)
    text = http.get("/metrics").text
    own = Counter(re.findall(r'run="(\w)"', text))
    assert own["c"] == 60
    assert own["b"] == 42, "what room there is beside what is kept for the last"
    assert own["a"] == 38, "nobody goes without what is most needed"
    assert http.metric("trainvitals_run_step", run="a") == 2
    assert http.metric("trainvitals_monitor_series") == 140
    left_out = [http.metric("trainvitals_run_series_left_out", run=run) for run in "abc"]
    assert http.metric("trainvitals_monitor_series_left_out") == sum(left_out) > 100
    assert http.metric("trainvitals_runs_left_out") == 0


def test_a_critical_finding_has_its_series_beside_runs_that_fill_the_cap(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest run is the one that has it."""
    bias = tensor("layers.0.moe.expert_bias", kind="buffer", dtype="bfloat16")
    stream = Stream([bias], run="old")
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames)
    for number in range(4):
        http.push_all(large_stream(f"new-{number}", layers=4).frames)
    monkeypatch.setattr(scrape, "MAX_SERIES", 4 * scrape.RESERVED)
    found = re.findall(
        r'finding_active\{run="old",detector="([^"]+)".*\} 1', http.get("/metrics").text
    )
    assert found == ["contract-broken"]


def test_a_run_that_vanished_is_let_go_of_in_the_end(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day after its last word; the API still has it."""
    http.push_all(_stream("run").frames)
    monkeypatch.setattr(scrape, "ABANDONED_S", -1.0)
    assert 'run="run"' not in http.get("/metrics").text
    assert http.get_json("/api/v1/runs/run")["step"] == 103


def test_state_by_layer_and_role(http: Client) -> None:
    """Norms add up in squares; updates count by the step; buffers are in no layer."""
    stream = Stream(
        ["layers.2.a.weight", "layers.2.b.weight", "layers.10.norm.weight", tensor("layers.2.n", kind="buffer")],
        run="run",
    )  # fmt: skip
    stream.step(
        values={"layers.2.a.weight": 3.0, "layers.2.b.weight": 4.0, "layers.2.n": 1e9},
        updates={
            "layers.2.a.weight": {"update_norm": 0.5, "since": 1, "changed": 32},
            "layers.2.b.weight": {"update_norm": 0.0, "since": 1, "changed": 0},
        },
        gradients={"layers.2.a.weight": 0.25},
    )
    stream.step(values={"layers.2.a.weight": {"norm": math.nan, "nonfinite": 7}})
    stream.flush()
    http.push_all(stream.frames)
    layer = {"run": "run", "layer": "layers.02"}
    assert http.metric("trainvitals_layer_norm", **layer) == 4.0
    assert http.metric("trainvitals_layer_changed_ratio", **layer) == 0.25
    assert http.metric("trainvitals_layer_gradient_norm", **layer) == 0.25
    assert http.metric("trainvitals_layer_nonfinite_elements", **layer) == 7
    assert http.metric("trainvitals_role_norm", run="run", role="other") == 4.0
    offender = {"run": "run", "tensor": "layers.2.a.weight"}
    assert http.metric("trainvitals_offender_nonfinite_elements", **offender) == 7
    assert 'layer="layers.10"' not in http.get("/metrics").text
    stream.step(values={"layers.10.norm.weight": 1e200})
    stream.flush()
    http.push_all(stream.frames[-1:])
    assert http.metric("trainvitals_layer_norm", run="run", layer="layers.10") == math.inf


def test_watched_tensors(http: Client) -> None:
    """Bias, load and adapters: what their series say."""
    a, b = "layers.0.wq.lora_A.default.weight", "layers.0.wq.lora_B.default.weight"
    bias, counter = "layers.0.moe.expert_bias", "layers.0.moe.tokens_per_expert"
    buffers = [tensor(name, kind="buffer", shape=[8]) for name in (bias, counter)]
    stream = Stream([tensor(a, shape=[8, 64]), b, "layers.0.wq.weight", *buffers], run="run")
    for step in range(11):
        stream.step(
            values={a: 1.1**step, b: 0.5, "layers.0.wq.weight": 10.0, bias: 0.3},
            extremes={bias: (0.1 * step - 1.0, 0.1 * step + 1.0)},
            routing={counter: {"effective_experts": 2.0, "busiest": 4.0, "unused": 3}},
        )
    stream.flush()
    http.push_all(stream.frames)
    at = {"run": "run", "layer": "layers.00"}
    expected = {
        "trainvitals_lora_growth_ratio": 0.1,
        "trainvitals_lora_product_ratio": 1.1**10 / 20,
        "trainvitals_expert_bias_norm": 0.3,
        "trainvitals_expert_bias_spread": 2.0,
        "trainvitals_expert_bias_drift": 1.0,
        "trainvitals_expert_load_max_ratio": 4.0,
        "trainvitals_expert_load_entropy_ratio": 1 / 3,
        "trainvitals_expert_dead": 3,
        "trainvitals_experts": 8,
    }
    for name, value in expected.items():
        assert http.metric(name, **at) == pytest.approx(value), name
    assert http.metric("trainvitals_lora_norm", **at, matrix="a") == pytest.approx(1.1**10)
    assert http.metric("trainvitals_lora_norm", **at, matrix="b", tensor=b) == 0.5
    assert http.metric("trainvitals_expert_bias_info", **at, dtype="float32", tensor=bias) == 1


def test_checkpoints_have_series(http: Client) -> None:
    """The last save, the last that is clean, and what changed of its keys."""
    stream = Stream(["a", "b"], run="run", step_offset=100)
    stream.step(values={"*": 1.0}, steps=5)
    stream.checkpoint()
    stream.step(values={"*": 1.0}, steps=5)
    stream.checkpoint()
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames)
    assert http.metric("trainvitals_checkpoint_last_save_step", run="run") == 110
    assert http.metric("trainvitals_checkpoint_last_clean_step", run="run") == 110
    assert http.metric("trainvitals_checkpoint_saves_total", run="run") == 2


def test_keys_are_compared_with_an_earlier_attempts_save(http: Client) -> None:
    """A resume that renames keys shows at its first save."""
    stream = Stream(["a", "b"], run="run")
    stream.step(values={"*": 1.0})
    stream.checkpoint()
    stream.restart()
    stream.step(values={"*": 1.0})
    stream.checkpoint(keys=["a", "_orig_mod.b"])
    stream.step(values={"*": 1.0})
    stream.flush()
    http.push_all(stream.frames)
    assert http.metric("trainvitals_checkpoint_keys_changed", run="run") == 2


def test_layer_names_sort_and_need_no_numbers() -> None:
    """Padded within their stack; the module where there is no number."""
    names = ["m.layers.3.w", "m.layers.100.w", "0.weight", "11.weight", "model.norm.weight", "w"]
    expected = ["m.layers.003", "m.layers.100", "00", "11", "model.norm", "w"]
    assert layer_names(names) == expected


def test_lines_are_made_once(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model stays, a scrape only fills in values; one run too many is not looked at at all."""
    for name in "ab":
        http.push_all(large_stream(name, layers=2).frames)
    first = http.get("/metrics").text
    made = Counter[str]()

    def counted(series: Series, spec: MetricSpec, labels: Iterable[tuple[str, ...]]) -> None:
        made[spec.name] += 1
        begin(series, spec, labels)

    begin = Series.__init__
    monkeypatch.setattr(Series, "__init__", counted)
    assert _names(http.get("/metrics").text) == _names(first)
    assert not made
    monkeypatch.setattr(scrape, "MAX_RUNS", 1)
    assert 'run="a"' not in http.get("/metrics").text
    monkeypatch.undo()
    assert _names(http.get("/metrics").text) == _names(first)


def _names(text: str) -> list[str]:
    return [line.rpartition(" ")[0] for line in _samples(text)]


def test_ready_is_a_metric(http: Client) -> None:
    """1 while frames are taken."""
    assert http.metric("trainvitals_monitor_ready") == 1
