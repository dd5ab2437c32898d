"""The platform's own processes: how each is started, and the variables it reads."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import gpus, runtime, triton
from devstack.environment import service_environment
from devstack.errors import EngineMissing
from devstack.home import Home
from devstack.ports import LOOPBACK
from devstack.probes import grpc_health, http
from devstack.settings import client_settings, files
from devstack.spec import Kind, Probe, ProcessSpec


@dataclass(frozen=True)
class Service:
    """One platform process."""

    name: str
    package: str
    """The folder under `services/`, whose tokens, database and data it uses."""
    arguments: tuple[str, ...] = ()
    grpc: tuple[str, ...] = ()
    """Its gRPC doors; the health of the first is the health of the process."""
    http: tuple[str, ...] = ()
    """Its HTTP doors."""
    beside: str = ""
    """The process whose data it shares and brings away: one does not run without the other."""
    stands_back: bool = False
    """Whether requests come before what it does."""

    @property
    def metrics(self) -> str:
        """The name of its Prometheus door."""
        return f"{self.name}-metrics"

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports it needs."""
        return (*self.grpc, *self.http, self.metrics)

    def exists(self) -> bool:
        """Whether its code is installed."""
        try:
            return importlib.util.find_spec(f"services.{self.package}.__main__") is not None
        except ModuleNotFoundError:
            return False


_HOST = "inference"
"""The service that runs the models."""
_TARGET = "TESSERA_TRITON_GRPC_TARGET"
"""The Triton that it asks where it runs none itself; a stack's own has precedence."""
SERVICES: Mapping[str, Service] = {
    service.name: service
    for service in (
        Service("catalog", "catalog", grpc=("catalog",)),
        Service("tracking", "tracking", grpc=("tracking",), http=("tracking-http",)),
        Service("training", "training", grpc=("training",)),
        Service("inference", "inference", grpc=("inference", "gateway"), http=("gateway-http",)),
        Service(
            "inference-shipper", "inference", ("shipper",), beside="inference", stands_back=True
        ),
        Service("inference-sink", "inference", ("sink",), stands_back=True),
        Service("monitoring", "monitoring", grpc=("monitoring",)),
    )
}


def installed() -> list[str]:
    """The services whose code is there."""
    return [service.name for service in SERVICES.values() if service.exists()]


def spec(
    home: Home,
    service: Service,
    ports: Mapping[str, int],
    doors: Mapping[str, str],
    after: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> ProcessSpec:
    """The process of `service`, which starts when the engines in `after` are healthy.

    Raises:
        StackError: `TESSERA_RUNTIME` is neither of its values, or there is no Triton to be had.
    """
    data = _data(home, service)
    settings = _settings(home, service, ports, doors, environment)
    hosted = _hosted_triton(home, service, doors, environment)
    if hosted is not None:
        settings |= hosted.variables

    def prepare() -> None:
        data.mkdir(parents=True, exist_ok=True)
        if hosted is not None:
            hosted.prepare()

    return ProcessSpec(
        name=service.name,
        kind=Kind.SERVICE,
        command=(sys.executable, "-m", f"services.{service.package}", *service.arguments),
        environment=service_environment(home, settings),
        directory=home.root if hosted is None else hosted.directory,
        probe=_probe(service, ports),
        doors=service_doors(service, ports),
        after=frozenset(after),
        outlives=service.beside,
        prepare=prepare,
        stands_back=service.stands_back,
        stop_seconds=20.0,
    )


def service_doors(service: Service, ports: Mapping[str, int]) -> dict[str, str]:
    """The addresses of `service`."""
    doors = {name: f"{LOOPBACK}:{ports[name]}" for name in service.grpc}
    doors |= {_key(name): f"http://{LOOPBACK}:{ports[name]}" for name in service.http}
    return {**doors, _key(service.metrics): f"http://{LOOPBACK}:{ports[service.metrics]}/metrics"}


def _hosted_triton(
    home: Home, service: Service, doors: Mapping[str, str], environment: Mapping[str, str]
) -> triton.Inside | None:
    """What a service that runs Triton within itself is given; None for one that does not."""
    if service.name != _HOST or runtime.chosen(environment) is runtime.Runtime.PROCESS:
        return None
    try:
        return triton.inside(home, service.name)
    except EngineMissing:
        # One that runs elsewhere will do.
        if "triton_grpc" in doors or _TARGET in environment:
            return None
        raise


def _data(home: Home, service: Service) -> Path:
    return home.data(service.beside or service.name)


def _key(port: str) -> str:
    return port.replace("-", "_")


def _probe(service: Service, ports: Mapping[str, int]) -> Probe:
    if service.grpc:
        return grpc_health(f"{LOOPBACK}:{ports[service.grpc[0]]}")
    return http(LOOPBACK, ports[service.metrics], "/metrics")


def _settings(
    home: Home,
    service: Service,
    ports: Mapping[str, int],
    doors: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, str]:
    def variable(name: str) -> str:
        return name.upper().replace("-", "_")

    database = home.data(service.package) / f"{service.package}.db"
    own = {
        _HOST: {"TESSERA_SECRETS_DIR": str(home.root / "secrets")},
        "training": {gpus.VARIABLE: gpus.count(environment)},
    }
    given = {_TARGET: environment[_TARGET]} if _TARGET in environment else {}
    return {
        **(given if service.name == _HOST else {}),
        **client_settings(doors, files(home)),
        **{
            f"TESSERA_{variable(name)}_LISTEN": f"{LOOPBACK}:{ports[name]}"
            for name in (*service.grpc, *service.http)
        },
        f"TESSERA_{variable(service.name)}_METRICS_LISTEN": f"{LOOPBACK}:{ports[service.metrics]}",
        f"TESSERA_{variable(service.package)}_DATABASE_URL": f"sqlite+aiosqlite:///{database}",
        "TESSERA_SERVICE_TOKEN_FILE": str(home.tokens / f"{service.package}.token"),
        "TESSERA_SERVICE_TOKENS_DIR": str(home.tokens),
        "TESSERA_DATA_DIR": str(_data(home, service)),
        "TESSERA_TELEMETRY_CLICKHOUSE": "1",
        "TESSERA_HOME": str(home.root),
        **own.get(service.name, {}),
    }
