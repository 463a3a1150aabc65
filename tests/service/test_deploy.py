"""What stands in `deploy/`, the compose file and the Dockerfile fits the server it is for, and itself.

No container is run here: the files are read, and the server's own commands in them are run as they stand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.cli import main
from service.configuration import configure
from service.operations.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/tiller.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]

SERVICE_KEYS = {
    "build": (str, dict),
    "command": list,
    "depends_on": list,
    "deploy": dict,
    "environment": dict,
    "healthcheck": dict,
    "image": str,
    "ports": list,
    "profiles": list,
    "restart": str,
    "stop_grace_period": str,
    "volumes": list,
}
"""Those of the compose specification that this file uses, and the types it takes them in"""


def unescaped(value: str) -> str:
    """A compose value as it is when no variable of its kind is set: `${NAME:-default}` is its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Every series `/metrics` can have, histogram suffixes included."""
    metrics = Metrics()
    for metric in (*metrics._labelled, metrics._violations):
        metric.labels("toxicity@1")
    metrics._probability.labels("toxicity@1", "pre")
    metrics._failed.labels("internal_error")
    metrics._rejected.labels("queue_full")
    text = metrics.exposition("")[0].decode()
    series = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    return series | {"tiller_probe_info"}


def test_every_metric_of_the_dashboard_and_the_alerts_exists(names: set[str]) -> None:
    for query in [*QUERIES, *(rule["expr"] for rule in RULES)]:
        used = set(re.findall(r"\b(?:tiller|process)_\w+", query))
        assert used or "up{" in query, query
        assert used <= names


def test_every_metric_is_on_the_dashboard(names: set[str]) -> None:
    shown = set(re.findall(r"\btiller_\w+", " ".join(QUERIES)))
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in names if name.startswith("tiller_")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in shown} == families


def test_the_dashboard_uses_the_datasource_that_is_provisioned_where_it_is_mounted() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    (source,) = sources["datasources"]
    places = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"}
    assert places == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    providers = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/tiller.yml").read_text(encoding="utf-8"))
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    folder = providers["providers"][0]["options"]["path"]
    assert mounts[folder] == "./deploy/grafana/dashboards"
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/tiller.json"
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"


def test_panels_have_ids_titles_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]
    assert len(set(cells)) == len(cells), "two panels overlap"
    assert max(x for x, _ in cells) < 24


def test_every_alert_says_how_bad_what_and_what_next() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_prometheus_reads_the_rules_and_finds_the_servers_of_the_compose_file() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    assert {"/etc/prometheus/prometheus.yml", *(f"/etc/prometheus/{name}" for name in config["rule_files"])} <= mounted
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= set(SERVICES)
    assert f"EXPOSE {found['port']}" in DOCKERFILE
    assert job.get("metrics_path", "/metrics") == "/metrics"


def test_the_compose_file_is_whole() -> None:
    assert set(COMPOSE) == {"x-tiller", "services", "volumes"}
    for name, service in SERVICES.items():
        assert set(service) <= set(SERVICE_KEYS), name
        assert all(isinstance(value, SERVICE_KEYS[key]) for key, value in service.items()), name
        assert "image" in service or "build" in service
        assert set(service.get("depends_on", [])) <= set(SERVICES)
        for port in service["ports"]:
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", unescaped(port)), "nothing is published beyond this machine"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
        for value in service.get("environment", {}).values():
            assert isinstance(value, str), "YAML would make something else of it"
        if "image" in service and "build" not in service:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), "one release, named"
    together = [port for name in ("tiller", "prometheus", "grafana") for port in SERVICES[name]["ports"]]
    published = [unescaped(port).split(":")[1] for port in together]
    assert len(set(published)) == len(published)


def test_variables_of_the_server_in_containers_are_settings() -> None:
    known = {f"TILLER_{name.upper()}" for name in Settings.model_fields} | {"TILLER_HOME", "TILLER_API_KEY"}
    assert set(re.findall(r"TILLER_\w+", DOCKERFILE)) <= known
    for name in ("tiller", "tiller-gpu"):
        assert set(SERVICES[name]["environment"]) <= known


def test_containers_do_not_run_as_root_and_have_time_to_drain() -> None:
    lines = [line for line in DOCKERFILE.splitlines() if line.startswith(("USER", "CMD", "RUN"))]
    assert "USER tiller" in lines
    assert lines.index("USER tiller") > max(at for at, line in enumerate(lines) if line.startswith("RUN"))
    for name in ("tiller", "tiller-gpu"):
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= configure({}).settings.drain_seconds + 15


@pytest.mark.parametrize("name", ["tiller", "tiller-gpu"])
def test_the_servers_command_runs_as_the_container_runs_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = SERVICES[name].get("command") or json.loads(DOCKERFILE.rsplit("CMD ", 1)[1])
    for variable, value in [*_environment(), *SERVICES[name]["environment"].items()]:
        monkeypatch.setenv(variable, unescaped(value))
    assert command[0] == "tiller"
    assert main([*command[1:], "--print-config"]) == 0
    settings = tomllib.loads(capsys.readouterr().out)
    assert (settings["host"], settings["port"]) == ("0.0.0.0", 8000)
    Settings(**settings).check_bind()


@pytest.mark.parametrize("where", ["Dockerfile", "tiller", "tiller-gpu"])
def test_the_healthcheck_finds_a_ready_server_and_no_other(where: str, client: httpx.Client) -> None:
    asked = re.search(r"CMD (\[.*\])\nCMD", DOCKERFILE)
    assert asked is not None
    command = json.loads(asked[1]) if where == "Dockerfile" else SERVICES[where]["healthcheck"]["test"][1:]
    assert command[0] == "python"
    for url, code in ((str(client.base_url).rstrip("/"), 0), ("http://127.0.0.1:9", 1)):
        words = [sys.executable, *(word.replace("http://127.0.0.1:8000", url) for word in command[1:])]
        assert subprocess.run(words, capture_output=True, check=False).returncode == code


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def _environment() -> list[tuple[str, str]]:
    """What the Dockerfile sets for the server."""
    return re.findall(r"(TILLER_\w+)=(\S+)", DOCKERFILE)
