"""From the names of what should run to the processes, with their ports, credentials and order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from devstack import clickhouse, kafka, objectstore, ports, runtime, services, triton
from devstack.errors import StackError
from devstack.home import Home
from devstack.secrets import Credentials, ensure_credentials, ensure_tokens
from devstack.spec import ProcessSpec

_ENGINE_PORTS: Mapping[str, tuple[str, ...]] = {
    objectstore.NAME: objectstore.PORTS,
    kafka.NAME: kafka.PORTS,
    clickhouse.NAME: clickhouse.PORTS,
    triton.NAME: triton.PORTS,
}
ENGINES = tuple(_ENGINE_PORTS)
DEFAULT_ENGINES = tuple(engine for engine in ENGINES if engine != triton.NAME)
"""What the platform needs, with Triton within the inference service."""


@dataclass(frozen=True)
class Plan:
    """The processes of a stack, engines first."""

    specs: tuple[ProcessSpec, ...]
    doors: Mapping[str, str]
    ports: Mapping[str, int]


def make_plan(
    home: Home,
    names: Iterable[str],
    environment: Mapping[str, str],
    claims: ports.PortClaims,
    in_use: Mapping[str, int] | None = None,
) -> Plan:
    """Allocates ports, writes tokens and credentials, and describes every process of `names`.

    `claims` keeps other stacks off the ports as long as it lasts; `in_use` are ports that running
    processes of this stack hold, and keep.

    Raises:
        StackError: an unknown name, an engine that is not installed, a port that cannot be had, or
            a `TESSERA_RUNTIME` that is neither of its values.
    """
    wanted = check_names(names)
    engines = [name for name in ENGINES if name in wanted]
    platform = [service for name, service in services.SERVICES.items() if name in wanted]
    needed = [port for name in engines for port in _ENGINE_PORTS[name]]
    needed += [port for service in platform for port in service.ports]
    in_use = in_use or {}
    fresh = [port for port in needed if port not in in_use]
    numbers = {**in_use, **ports.allocate(home, fresh, environment, claims)}
    ensure_tokens(home)
    builders = _engine_builders(home, numbers)
    specs = [builders[name]() for name in engines]
    doors = {name: door for spec in specs for name, door in spec.doors.items()}
    for service in platform:
        doors |= services.service_doors(service, numbers)
    specs += [
        services.spec(home, service, numbers, doors, engines, environment) for service in platform
    ]
    return Plan(tuple(specs), doors, numbers)


def check_names(names: Iterable[str]) -> frozenset[str]:
    """The names, with what they cannot run without.

    Raises:
        StackError: a name that is no engine and no service.
    """
    wanted = set(names)
    unknown = wanted - set(ENGINES) - set(services.SERVICES)
    if unknown:
        known = ", ".join((*ENGINES, *services.SERVICES))
        raise StackError(f"unknown process {', '.join(sorted(unknown))}; there are {known}")
    if kafka.NAME in wanted:
        wanted.add(objectstore.NAME)
    wanted |= {one.name for one in services.SERVICES.values() if one.beside in wanted}
    return frozenset(wanted)


def default_engines(environment: Mapping[str, str]) -> Sequence[str]:
    """The engines that the platform needs: Triton's process if models are to run there.

    Raises:
        StackError: `TESSERA_RUNTIME` is neither of its values.
    """
    apart = runtime.chosen(environment) is runtime.Runtime.PROCESS
    return ENGINES if apart else DEFAULT_ENGINES


def default_names(environment: Mapping[str, str]) -> Sequence[str]:
    """Every installed service and the engines that they need.

    Raises:
        StackError: as `default_engines`.
    """
    return (*default_engines(environment), *services.installed())


def _engine_builders(
    home: Home, numbers: Mapping[str, int]
) -> Mapping[str, Callable[[], ProcessSpec]]:
    def secret(engine: str) -> Credentials:
        return ensure_credentials(home, engine)

    return {
        objectstore.NAME: lambda: objectstore.spec(home, numbers, secret(objectstore.NAME)),
        kafka.NAME: lambda: kafka.spec(home, numbers, secret(objectstore.NAME)),
        clickhouse.NAME: lambda: clickhouse.spec(home, numbers, secret(clickhouse.NAME)),
        triton.NAME: lambda: triton.spec(home, numbers),
    }
