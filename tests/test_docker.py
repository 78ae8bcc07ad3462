"""
docker-compose.yml and the Dockerfile, as far as that goes without an engine: schema, structure, and what they mount.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitor.prometheus_server import PrometheusServer, running_prometheus
from tests.monitor.serving import serving, until
from trainvitals_monitor.cli import cli
from trainvitals_monitor.config import Config
from trainvitals_monitor.generate.dashboards.provisioning import FOLDER

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INGEST, READ = "tokens-for-agents", "tokens-for-readers"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def test_compose_file_is_valid() -> None:
    """By the Compose specification's JSON schema."""
    if find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is for Python 3.11 and later")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_all_four_are_there() -> None:
    """Monitor, Prometheus, Alertmanager, Grafana."""
    assert list(SERVICES) == ["monitor", "prometheus", "alertmanager", "grafana"]


@each_service
def test_services_are_hardened(service: dict[str, Any]) -> None:
    """A pinned version, not root, a read-only root, no capabilities, a health check; loopback unless asked otherwise."""
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not str(service.get("user", "10001")).startswith("0")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "privileged" not in service
    for port in service["ports"]:
        assert port.startswith(("127.0.0.1:", "${TRAINVITALS_BIND:-127.0.0.1}:"))


@each_service
def test_what_is_mounted_is_there(service: dict[str, Any]) -> None:
    """Volumes and secrets are declared; folders of ours exist and are mounted read-only."""
    for mount in service["volumes"]:
        source, _, rest = mount.partition(":")
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
            assert rest.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
    for secret in service.get("secrets", []):
        assert secret in COMPOSE["secrets"]
        assert COMPOSE["secrets"][secret]["file"].startswith("./secrets/")


@each_service
def test_tokens_are_secrets(service: dict[str, Any]) -> None:
    """No environment variable holds a token or a password, only the name of a file."""
    for name, value in service.get("environment", {}).items():
        if re.search("TOKEN|PASSWORD", name):
            assert value.startswith("/run/secrets/")


def test_the_monitors_options_exist() -> None:
    """Each option in the command is one of `trainvitals serve`."""
    name, *options = SERVICES["monitor"]["command"]
    known = {flag for option in cli.commands[name].params for flag in option.opts}
    assert {option.partition("=")[0] for option in options} <= known


def test_configuration_files_are_there() -> None:
    """What --config.file names lies in the folder that is mounted, and the addresses in it are services of this file."""
    for name in ("prometheus", "alertmanager"):
        (option,) = [one for one in SERVICES[name]["command"] if one.startswith("--config.file=")]
        file = re.sub(r"\$\{\w+:-(.+)\}", r"\1", option).rpartition("/")[2]
        assert (ROOT / "dashboards" / name / file).is_file()
    scraped = yaml.safe_load((ROOT / "dashboards/prometheus/compose.yml").read_text())
    targets = [
        target
        for job in (*scraped["scrape_configs"], *scraped["alerting"]["alertmanagers"])
        for given in job["static_configs"]
        for target in given["targets"]
    ]
    for target in targets:
        host, _, port = target.partition(":")
        service = SERVICES["prometheus" if host == "127.0.0.1" else host]
        assert any(one.endswith(f":{port}") for one in service["ports"])
    (monitor, _) = scraped["scrape_configs"]
    token = monitor["authorization"]["credentials_file"]
    assert token.removeprefix("/run/secrets/") in SERVICES["prometheus"]["secrets"]


def test_grafana_finds_its_dashboards() -> None:
    """The folder that provisioning names is the one that is mounted, and the home dashboard lies in it."""
    grafana = SERVICES["grafana"]
    assert f"./dashboards/grafana/dashboards:{FOLDER}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, name = home.rpartition("/")
    assert folder == FOLDER
    assert (ROOT / "dashboards" / "grafana" / "dashboards" / name).is_file()


def test_the_image_has_no_torch_and_is_not_root() -> None:
    """It installs the monitor's extra at pinned versions, copies what there is, and runs as a user."""
    assert "'.[monitor]'" in DOCKERFILE
    assert "--constraint requirements/dev.txt" in DOCKERFILE
    assert "torch" not in DOCKERFILE.replace("no torch", "")
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.M)[-1] == "10001:10001"
    ignored = (ROOT / ".dockerignore").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored


def test_the_configuration_runs_without_docker(tmp_path: Path) -> None:
    """Prometheus with the same file, but for addresses, reads the monitor with its token and evaluates every rule."""
    config = yaml.safe_load((ROOT / "dashboards/prometheus/compose.yml").read_text())
    token = tmp_path / "read_token"
    token.write_text(READ)
    guarded = Config(store=str(tmp_path / "store"), ingest_token=INGEST, read_token=READ)
    with serving(guarded) as http:
        monitor, itself = config["scrape_configs"]
        monitor["authorization"]["credentials_file"] = str(token)
        monitor["static_configs"] = [{"targets": [f"{http.base_url.host}:{http.base_url.port}"]}]
        itself["static_configs"] = []
        config["alerting"]["alertmanagers"] = []
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [
            str(ROOT / "dashboards/prometheus" / one) for one in config["rule_files"]
        ]
        with running_prometheus(config, tmp_path) as prometheus:
            prometheus.await_scrapes("trainvitals_monitor_ready", 3)
            until(lambda: _healths(prometheus) == {"ok"})
            (up,) = prometheus.query('up{job="trainvitals"}')
            assert up["value"][1] == "1"


def _healths(prometheus: PrometheusServer) -> set[str]:
    """How the rules are; "unknown" before the first evaluation."""
    groups = prometheus.ask("rules")["groups"]
    assert groups
    return {rule["health"] for group in groups for rule in group["rules"]}
