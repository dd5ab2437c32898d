"""Twins of the ports in memory, for tests and for embedding."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from tritonclient.grpc import service_pb2

from services.inference.domain.bodies import PayloadTable
from services.inference.domain.endpoint import Endpoint, EndpointConfig, InferenceTable
from services.inference.errors import (
    EndpointExists,
    EndpointNotFound,
    InferenceTimeout,
    ModelNotLoaded,
    ModelNotServable,
    RuntimeUnavailable,
    SecretNotFound,
    StaleEtag,
    StoreUnavailable,
)
from services.inference.runtime.bundle import ModelBundle
from tessera_kit.bus.event import Event
from tessera_kit.config import Secret

__all__ = [
    "InMemoryBudgets",
    "InMemoryBundles",
    "InMemoryEndpoints",
    "InMemoryProcess",
    "InMemoryReplacements",
    "InMemoryRuntime",
    "InMemorySecrets",
]


class InMemoryEndpoints:
    """`ports.Endpoints` and `ports.Tables`; `told` holds the events of committed calls."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self._endpoints: dict[str, Endpoint] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._tables: dict[str, InferenceTable] = {}
        self._tables_by_id: dict[tuple[str, str], InferenceTable] = {}
        self._payload_tables: list[PayloadTable] = []
        self._configs: dict[str, dict[int, EndpointConfig]] = {}

    async def add(self, endpoint: Endpoint, request_id: str, tells: Sequence[Event]) -> Endpoint:
        """Store a new endpoint."""
        earlier = await self.find_request(endpoint.created_by, request_id)
        if earlier is not None:
            return earlier
        if endpoint.name in self._endpoints:
            raise EndpointExists(f"there is an endpoint {endpoint.name!r} already")
        self._endpoints[endpoint.name] = endpoint
        self._tables[endpoint.name] = endpoint.table
        self._tables_by_id[endpoint.name, endpoint.endpoint_id] = endpoint.table
        self._payload_tables.append(
            PayloadTable(
                endpoint.endpoint_id,
                endpoint.table,
                endpoint.settings.retention_days,
                endpoint.name,
            )
        )
        self._note_configs(endpoint)
        if request_id:
            self._requests[endpoint.created_by, request_id] = endpoint.endpoint_id
        self.told.extend(tells)
        return endpoint

    async def find_request(self, principal: str, request_id: str) -> Endpoint | None:
        """The endpoint of an earlier `add` of this creator with this request id."""
        wanted = self._requests.get((principal, request_id)) if request_id else None
        return next((one for one in self._endpoints.values() if one.endpoint_id == wanted), None)

    async def get(self, name: str) -> Endpoint:
        """Read an endpoint."""
        found = self._endpoints.get(name)
        if found is None:
            raise EndpointNotFound(f"there is no endpoint {name!r}")
        return found

    async def page(self, after: str, limit: int) -> Sequence[Endpoint]:
        """Endpoints with names above `after`, by name."""
        return [one for one in await self.all() if one.name > after][:limit]

    async def all(self) -> Sequence[Endpoint]:
        """Every endpoint, by name."""
        return sorted(self._endpoints.values(), key=lambda endpoint: endpoint.name)

    async def save(self, endpoint: Endpoint, read_etag: str, tells: Sequence[Event]) -> None:
        """Store a changed endpoint."""
        self._check(endpoint, read_etag)
        self._endpoints[endpoint.name] = endpoint
        self._note_configs(endpoint)
        self.told.extend(tells)

    async def configs(
        self, endpoint_id: str, below: int | None, limit: int
    ) -> Sequence[EndpointConfig]:
        """Configurations of an endpoint, the newest first."""
        known = self._configs.get(endpoint_id, {})
        numbers = sorted(known, reverse=True)
        return [known[one] for one in numbers if below is None or one < below][:limit]

    async def delete(self, endpoint: Endpoint, tells: Sequence[Event]) -> None:
        """Delete the endpoint; the place of its table stays known."""
        self._check(endpoint, endpoint.etag)
        del self._endpoints[endpoint.name]
        self._configs.pop(endpoint.endpoint_id, None)
        self.told.extend(tells)

    async def table_of(self, endpoint: str, endpoint_id: str = "") -> InferenceTable | None:
        """The table of an endpoint; None when there never was one."""
        if endpoint_id:
            return self._tables_by_id.get((endpoint, endpoint_id))
        return self._tables.get(endpoint)

    async def table_named(self, full_name: str) -> PayloadTable | None:
        """The table of that full name, the newest if there were several."""
        found = [one for one in self._payload_tables if one.table.full_name == full_name]
        return found[-1] if found else None

    async def payload_tables(self, endpoint: str = "") -> Sequence[PayloadTable]:
        """Every table, the newest endpoint's first."""
        return [one for one in reversed(self._payload_tables) if endpoint in ("", one.endpoint)]

    async def expiring_tables(self) -> Sequence[PayloadTable]:
        """The tables that do not keep their rows for ever."""
        return [one for one in self._payload_tables if one.retention_days]

    def _note_configs(self, endpoint: Endpoint) -> None:
        known = self._configs.setdefault(endpoint.endpoint_id, {})
        for config in (endpoint.config, endpoint.pending):
            if config is not None:
                known[config.version] = config

    def _check(self, endpoint: Endpoint, etag: str) -> None:
        stored = self._endpoints.get(endpoint.name)
        if stored is None or stored.endpoint_id != endpoint.endpoint_id or stored.etag != etag:
            raise StaleEtag(f"endpoint {endpoint.name!r} changed since it was read")


class InMemoryBudgets:
    """`ports.RateBudgets`; `up` can be taken away as a database can."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0
        self._taken: dict[tuple[str, str, int], int] = {}

    async def take(self, endpoint_id: str, key: str, start: int, want: int, calls: int) -> int:
        """Take calls of a window."""
        if not self.up:
            raise StoreUnavailable("the database does not answer")
        self.asked += 1
        place = (endpoint_id, key, start)
        given = max(0, min(want, calls - self._taken.get(place, 0)))
        self._taken[place] = self._taken.get(place, 0) + given
        return given

    async def expire(self, before: int) -> None:
        """Forget windows that began before a Unix second."""
        self._taken = {place: taken for place, taken in self._taken.items() if place[2] >= before}


class InMemoryReplacements:
    """`ports.Replacements`."""

    def __init__(self) -> None:
        self._leader = ""
        self._until: datetime | None = None
        self._followers: dict[str, bool] = {}

    async def lead(self, process: str, *, now: datetime, until: datetime) -> bool:
        """Begin a replacement, or go on with one."""
        if self._leader != process:
            if self._until is not None and self._until > now:
                return False
            self._leader = process
            self._followers.clear()
        self._until = until
        return True

    async def under_way(self, now: datetime, *, but: str) -> datetime | None:
        """When the lease of a replacement ends that another process leads."""
        if self._leader == but or self._until is None or self._until <= now:
            return None
        return self._until

    async def join(self, process: str, *, is_drained: bool) -> None:
        """Note that a process lets its requests wait."""
        self._followers[process] = is_drained

    async def drained(self) -> bool:
        """Whether no process that joined has requests in the runtime."""
        return all(self._followers.values())

    async def finish(self, process: str) -> None:
        """End a replacement, if that process leads it."""
        if self._leader == process:
            self._leader, self._until = "", None
            self._followers.clear()


class InMemorySecrets:
    """`ports.Secrets` that a test puts in."""

    def __init__(self) -> None:
        self._secrets: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}

    def put(self, scope: str, key: str, value: str, *readers: str) -> None:
        """Keep a secret."""
        self._secrets[scope, key] = (value, frozenset(readers))

    async def read(self, principal: str, scope: str, key: str) -> Secret:
        """Read a secret."""
        value, readers = self._secrets.get((scope, key), ("", frozenset()))
        if not {"*", principal} & readers:
            raise SecretNotFound(f"there is no secret {scope}/{key} that {principal!r} may read")
        return Secret(value)


class InMemoryBundles:
    """`ports.Bundles`."""

    def __init__(self) -> None:
        self._bundles: dict[str, ModelBundle] = {}

    async def get(self, name: str) -> ModelBundle | None:
        """The bundle of a model; None when it is not here."""
        return self._bundles.get(name)

    async def put(self, name: str, bundle: ModelBundle) -> None:
        """Keep a bundle."""
        self._bundles[name] = bundle

    async def keep_only(self, names: frozenset[str]) -> None:
        """Remove the bundles of all other models."""
        self._bundles = {name: one for name, one in self._bundles.items() if name in names}


class InMemoryRuntime:
    """`ports.RuntimeModels` and `ports.Runtime`: models are functions of the request's bytes.

    Args:
        answer: What every loaded model answers.
    """

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._models: dict[str, tuple[str, Mapping[str, bytes]]] = {}
        self._answered: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._refused: list[tuple[bytes, str]] = []
        self.up = True
        self.streamed: Callable[[bytes], AsyncGenerator[bytes]] | None = None

    def refuse(self, content: bytes, reason: str) -> None:
        """Let every load of a model whose files hold this content fail."""
        self._refused.append((content, reason))

    def files(self, name: str) -> Mapping[str, bytes]:
        """The files that a loaded model was loaded with."""
        return self._models[name][1]

    def config(self, name: str) -> str:
        """The configuration that a loaded model was loaded with."""
        return self._models[name][0]

    def has(self, name: str) -> bool:
        """Whether a model is loaded."""
        return name in self._models

    def restart(self) -> None:
        """Lose every model, as a killed runtime does."""
        self._models.clear()

    async def load(self, name: str, config: str, files: Mapping[str, bytes]) -> None:
        """Load a model."""
        self._check_up()
        for content, reason in self._refused:
            if any(content in file for file in files.values()):
                raise ModelNotServable(reason)
        self._models[name] = (config, files)
        self._answered[name] = 0

    async def unload(self, name: str) -> None:
        """Unload a model."""
        self._check_up()
        self._leaving.add(name)
        while self._inside[name]:  # noqa: ASYNC110 - nobody tells, in a twin
            await asyncio.sleep(0)
        self._leaving.discard(name)
        self._models.pop(name, None)

    async def loaded(self) -> frozenset[str]:
        """Names of the models that answer."""
        self._check_up()
        return frozenset(self._models)

    async def answered(self) -> Mapping[str, int]:
        """How many requests each model that answers has answered since it was loaded."""
        self._check_up()
        return {name: self._answered[name] for name in self._models}

    async def infer(self, request: bytes, timeout: float | None) -> bytes:
        """Answer with the function."""
        self._check_up()
        name = service_pb2.ModelInferRequest.FromString(request).model_name
        if name in self._leaving:
            raise ModelNotLoaded(f"{name} is being unloaded")
        self._inside[name] += 1
        try:
            async with asyncio.timeout(timeout):
                return await self._answer(request)
        except TimeoutError:
            raise InferenceTimeout("the deadline passed before the model answered") from None
        finally:
            self._inside[name] -= 1
            self._answered[name] += 1

    async def stream(self, request: bytes, timeout: float) -> AsyncGenerator[bytes]:
        """Answer with the responses that `streamed` gives, the function's one when it is None."""
        self._check_up()
        if self.streamed is None:
            yield await self.infer(request, timeout)
            return
        deadline = asyncio.get_running_loop().time() + timeout
        responses = self.streamed(request)
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    response = await anext(responses, None)
                if response is None:
                    return
                yield response
        except TimeoutError:
            raise InferenceTimeout("the deadline passed before the model answered") from None
        finally:
            await responses.aclose()

    def _check_up(self) -> None:
        if not self.up:
            raise RuntimeUnavailable("the model runtime does not answer")


class InMemoryProcess:
    """`ports.RuntimeProcess` of a runtime in memory, which loses its models when it ends.

    Args:
        runtime: The runtime.
        size: Bytes; None for a process on another machine.
    """

    def __init__(self, runtime: InMemoryRuntime, size: int | None) -> None:
        self.size = size
        self.ended = 0
        self._runtime = runtime

    async def memory(self) -> int | None:
        """Resident bytes of it."""
        return self.size

    async def end(self) -> None:
        """End it; it is started again at once."""
        self.ended += 1
        self._runtime.restart()
