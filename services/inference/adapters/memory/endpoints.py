"""Twins in memory of what inference's database keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.inference.domain.bodies import PayloadTable
from services.inference.domain.endpoint import Endpoint, EndpointConfig, InferenceTable
from services.inference.errors import (
    EndpointExists,
    EndpointNotFound,
    StaleEtag,
    StoreUnavailable,
)
from tessera_kit.bus.event import Event

__all__ = ["InMemoryBudgets", "InMemoryEndpoints", "InMemoryReplacements"]


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
