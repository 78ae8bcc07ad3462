"""
The documentation against the code: everything public is in it, its examples run, and generated pages are up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import trainvitals
from tests.monitor.prometheus import tool
from trainvitals.events import CheckpointSeen
from trainvitals.facts import TABLES
from trainvitals.frame import Header, TensorInfo
from trainvitals.settings import SETTINGS
from trainvitals_monitor.cli import cli
from trainvitals_monitor.demo import FAULTS
from trainvitals_monitor.detectors import DETECTORS
from trainvitals_monitor.generate import PRODUCTS, outdated, write
from trainvitals_monitor.generate.detectors import SECTIONS, sections_of
from trainvitals_monitor.metrics import METRICS
from trainvitals_monitor.refusal import REASONS

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob("docs/*.md")} | {
    name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
}
README = PAGES["README.md"]


def test_generated_files_are_up_to_date() -> None:
    """Every generated file is what the catalogues would make now."""
    assert outdated(ROOT) == []


def test_generated_files_are_made(tmp_path: Path) -> None:
    """`generate` writes what is missing or changed and nothing else; `--check` tells, and writes nothing."""
    assert set(write(tmp_path)) == {path for path, _ in PRODUCTS}
    (tmp_path / "docs" / "settings.md").write_text("changed by hand")
    command = [sys.executable, "-m", "trainvitals_monitor.generate", "--out", str(tmp_path)]
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "not up to date: docs/settings.md" in checked.stderr
    assert write(tmp_path) == ["docs/settings.md"]
    assert subprocess.run([*command, "--check"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/detectors.md", [f"## {detector.name}\n" for detector in DETECTORS]),
        ("docs/settings.md", [f"`{s.name}`" for s in SETTINGS] + [s.environment for s in SETTINGS]),
        ("docs/metrics.md", [f"`{metric.exposed}`" for metric in METRICS]),
        ("docs/facts.md", [f"`{column.name}`" for table in TABLES for column in table.columns]),
        ("docs/commands.md", [f"## trainvitals {name}\n" for name in cli.commands]),
        (
            "docs/wire.md",
            [f"`{field.name}`" for kind in (Header, TensorInfo) for field in fields(kind)],
        ),
        (
            "docs/wire.md",
            [f"`{f.name}`" for f in fields(CheckpointSeen) if f.name not in ("kind", "step")],
        ),
        ("docs/wire.md", [str(status) for status in set(REASONS.values()) - {405}]),
        ("README.md", [fault.name for fault in FAULTS]),
    ],
)
def test_everything_is_documented(page: str, names: list[str]) -> None:
    """Each detector, setting, metric, statistic, command, header field and fault appears on the page that lists them."""
    assert [name for name in names if name not in PAGES[page]] == []


def test_public_names_are_documented() -> None:
    """Each public name of the package, and each method of an agent, appears in the documentation."""
    text = "\n".join(PAGES.values())
    methods = [
        name for name in vars(trainvitals.Agent) if not name.startswith("_") and name != "start"
    ]
    missing = [
        name
        for name in [*trainvitals.__all__, *(f"agent.{name}" for name in methods)]
        if name != "__version__" and name not in text
    ]
    assert missing == []


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.name)
def test_manual_pages_are_complete(detector: Any) -> None:
    """A detector's docstring has every section, in order, and none of them is empty."""
    found = sections_of(detector)
    assert [name for name in found if name] == list(SECTIONS)
    assert all(found[name].strip() for name in SECTIONS)


def test_links_lead_somewhere() -> None:
    """Every relative link in the documentation leads to a file, and to a heading where it names one."""
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("https://"):
                continue
            path, _, heading = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.is_file(), f"{page}: {target}"
            if heading:
                assert f"\n## {heading}\n" in file.read_text(), f"{page}: {target}"


def test_metrics_that_pages_name_exist() -> None:
    """Also those in pages that nobody generates."""
    known = {spec.exposed for spec in METRICS}
    for page, text in PAGES.items():
        named = set(re.findall(r"`(trainvitals_[a-z_]+)`", text)) - {"trainvitals_monitor"}
        assert named <= known, page


@pytest.mark.parametrize(
    "example", [(page, text) for page, body in PAGES.items() for text in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)],
    ids=lambda one: one[1].splitlines()[0],
)  # fmt: skip
def test_yaml_in_pages_is_sound(example: tuple[str, str], tmp_path: Path) -> None:
    """It can be read; Prometheus' own tool accepts what is its, and options of the monitor's are options."""
    _, text = example
    for part in yaml.safe_load_all(text):
        if {"scrape_configs", "remote_write"} & set(part):
            file = tmp_path / "prometheus.yml"
            file.write_text(text)
            command = [tool("promtool"), "check", "config", "--syntax-only", str(file)]
            checked = subprocess.run(command, capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stdout + checked.stderr
        if part.get("kind") == "Deployment":
            (container,) = part["spec"]["template"]["spec"]["containers"]
            name, *options = container["args"]
            known = {flag for option in cli.commands[name].params for flag in option.opts}
            assert {option.partition("=")[0] for option in options} <= known
            variables = {one["name"] for one in container["env"]}
            assert variables <= set(re.findall(r"TRAINVITALS_\w+", PAGES["docs/commands.md"]))


@pytest.mark.parametrize(
    "example", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=lambda text: text[-40:]
)
def test_examples_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_training: dict[str, Any]
) -> None:
    """README's Python examples run as they stand, with a model and an optimizer; frames go to a folder here."""
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://127.0.0.1:8420", "frames"), small_training)  # noqa: S102
    small_training["one_step"]()
    small_training["agent"].close()
    assert list(tmp_path.rglob("*.safetensors"))


@pytest.fixture
def small_training() -> dict[str, Any]:
    """What a reader has before the example begins, and one step of training."""
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def one_step() -> None:
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()

    return {
        "model": model,
        "optimizer": optimizer,
        "step": 1,
        "loss": torch.tensor(1.0),
        "one_step": one_step,
    }


def test_readme_shows_a_real_output() -> None:
    """What README shows of the demo names the detectors and the sentence that the code gives now."""
    shown = README.split("```")[1]
    assert "slot-replaced" in shown
    assert "checkpoint-stale" in shown
    known = {detector.name for detector in DETECTORS}
    assert set(re.findall(r"^ ([a-z]+(?:-[a-z]+)+) ", shown, re.MULTILINE)) <= known


def test_commands_in_readme_exist() -> None:
    """Every `trainvitals COMMAND` and every `make TARGET` that README names is there."""
    commands = set(re.findall(r"^(?:.*-m )?trainvitals ([a-z]+)", README, re.MULTILINE))
    assert commands <= {*cli.commands, "run"}
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z]+)", README)) | {"demo", "test"}:
        assert f"\n{target}:" in makefile
