"""The cluster profile: valid, pinned, and the same variables as the embedded one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack.home import Home
from devstack.plan import default_names, make_plan
from devstack.ports import PortClaims
from devstack.services import SERVICES
from devstack.services import spec as service_spec

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
ENGINES = ("kafka", "objectstore", "clickhouse", "postgres", "triton-cpu", "triton-gpu")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def environment(compose: dict[str, Any], service: str) -> dict[str, str]:
    return {name: str(value) for name, value in compose["services"][service]["environment"].items()}


def test_compose_follows_the_specification() -> None:
    check = [str(Path(sys.executable).parent / "check-jsonschema")]
    schema = ["--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run([*check, *schema], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_is_pinned_to_a_release(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{name} has the image {service['image']}"


def test_every_file_that_is_named_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in compose["volumes"], source
        if build := service.get("build"):
            assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def test_what_the_image_copies_exists() -> None:
    for dockerfile in (ROOT / "infra/docker").glob("*Dockerfile"):
        for line in dockerfile.read_text().splitlines():
            if line.startswith("COPY "):
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), f"{dockerfile.name}: {source}"


def test_every_long_running_service_has_a_health_check(compose: dict[str, Any]) -> None:
    without = {
        name
        for name, service in compose["services"].items()
        if "healthcheck" not in service and service.get("restart") != "no"
    }
    assert without == {"otel-collector"}, "the collector's image has no shell to check with"


def test_doors_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_secrets_are_required_and_never_written_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"SECRET(_|$)|PASSWORD", variable):
                assert re.match(r"\$\{\w+:\?.+\}$", str(value)), f"{name}: {variable}"
    example = (ROOT / "infra/docker/env.example").read_text()
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    assert required <= set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE))


@pytest.mark.parametrize("name", SERVICES)
def test_both_profiles_set_the_same_variables(
    compose: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Only values differ; what only one profile has is listed here with its reason."""
    only_embedded = {
        "TESSERA_TELEMETRY_CLICKHOUSE",  # spans go to ClickHouse directly, without a collector
        "TESSERA_HOME",  # the data directory of the dev stack
        "TESSERA_KAFKA_SESSION_SECONDS",  # the embedded broker's groups wait a session to form
        "TESSERA_KAFKA_FETCH_WAIT_SECONDS",  # it looks for records by the clock; Kafka is told
    }
    only_cluster = {
        "TESSERA_OTLP_ENDPOINT",  # spans go to the collector
        "TESSERA_LOG_LEVEL",
        "TESSERA_TRACE_RATIO",
        "TESSERA_TRACE_MOST_PER_SECOND",
    }
    home = Home(tmp_path)
    for file, keys in (("objectstore.json", "ab"), ("clickhouse.json", "cd")):
        home.credentials.mkdir(parents=True, exist_ok=True)
        (home.credentials / file).write_text(f'{{"user": "{keys[0]}", "secret": "{keys[1]}"}}')
    service = SERVICES[name]
    ports = {port: index for index, port in enumerate(service.ports, 1)}
    engines = ("kafka", "s3", "clickhouse", "triton_grpc", "triton_http", "triton_metrics")
    platform = ("catalog", "tracking", "training", "inference", "gateway", "monitoring")
    doors = dict.fromkeys((*engines, *platform), "127.0.0.1:1")
    started = service_spec(home, service, ports, doors, (), {})
    embedded = {key for key in started.environment if key.startswith("TESSERA_")}
    embedded -= {"TESSERA_STACK_HOME"}
    cluster = {key for key in environment(compose, name) if key.startswith("TESSERA_")}
    assert embedded - cluster == only_embedded
    assert cluster - embedded == only_cluster


def test_targets_name_services_and_the_ports_they_listen_on(compose: dict[str, Any]) -> None:
    listens: dict[str, set[str]] = {}
    for name, service in compose["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            if variable.endswith("_LISTEN"):
                listens.setdefault(name, set()).add(str(value).rpartition(":")[2])
    for variable, value in environment(compose, "catalog").items():
        if variable.endswith("_TARGET") and "TRITON" not in variable:
            host, _, port = value.rpartition(":")
            assert port in listens[host], f"{variable}={value}"


def test_prometheus_scrapes_every_service_where_it_listens(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())
    scraped = {
        target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    for name in SERVICES:
        variable = f"TESSERA_{name.upper().replace('-', '_')}_METRICS_LISTEN"
        port = environment(compose, name)[variable].rpartition(":")[2]
        assert f"{name}:{port}" in scraped


def test_prometheus_finds_its_rules(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())
    mounted = " ".join(compose["services"]["prometheus"]["volumes"])
    assert config["rule_files"]
    for file in config["rule_files"]:
        assert f"./infra/prometheus/{file}:/etc/prometheus/{file}:ro" in mounted


def test_the_same_processes_stand_back_in_both_profiles(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    home, claims = Home.at(tmp_path / "home"), PortClaims(tmp_path / "claims")
    home.make()
    plan = make_plan(home, default_names({}), {}, claims)
    claims.close()
    shares = {
        name: service.get("cpu_shares", 1024) for name, service in compose["services"].items()
    }
    embedded = {spec.name for spec in plan.specs if spec.stands_back}
    assert embedded == {name for name, share in shares.items() if share < 1024}


def test_engines_start_before_services(compose: dict[str, Any]) -> None:
    for name in SERVICES:
        conditions = compose["services"][name]["depends_on"]
        for engine in ("kafka", "objectstore", "clickhouse", "postgres"):
            assert conditions[engine] == {"condition": "service_healthy"}
    assert set(ENGINES) <= set(compose["services"])
