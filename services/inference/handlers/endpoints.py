"""What callers ask of endpoints: create, read, change, follow, delete, count."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from services.inference.convert import events
from services.inference.convert.events import Step
from services.inference.domain.endpoint import (
    Endpoint,
    EndpointConfig,
    EntityRequest,
    InferenceTable,
)
from services.inference.domain.entity_rules import check_entities
from services.inference.domain.settings import EndpointSettings
from services.inference.domain.signature import Signature
from services.inference.domain.table import columns_of
from services.inference.domain.traffic import TrafficPolicy
from services.inference.errors import (
    ConfigNotFound,
    EndpointExists,
    EndpointNotFound,
    EndpointNotReady,
    RequestIdReused,
    StaleEtag,
    TableUnavailable,
)
from services.inference.gateway.access import may_see
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.resolution import Resolver
from services.inference.ports import Endpoints, TableCatalog, TableReader, TableStatistics
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import Clock
from tessera_kit.errors import AlreadyExists, Unavailable
from tessera_kit.ids import new_etag, new_id
from tessera_kit.names import check_name
from tessera_kit.rpc.authority import AccessDenied, Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["EndpointHandlers", "NewEndpoint"]

_log = logging.getLogger(__name__)

_ENDPOINT: Final = securable_pb2.SECURABLE_TYPE_ENDPOINT
_MANAGE: Final = securable_pb2.PRIVILEGE_MANAGE
_BATCH: Final = 100
_WATCH_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    """An endpoint as a caller asks for it."""

    name: str
    entities: Sequence[EntityRequest]
    schema: str
    """Full name of the schema that its table is made in."""
    table_prefix: str = ""
    """What the table's name begins with; the endpoint's name when empty."""
    comment: str = ""
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    traffic: TrafficPolicy = field(default_factory=TrafficPolicy)


class EndpointHandlers:
    """The use cases of `InferenceService`.

    Args:
        endpoints: Where endpoints are kept.
        tables: Makes inference tables.
        reader: Counts them.
        resolver: Finds models.
        deployer: Makes configurations ready.
        authority: What principals may do.
        changes: Wakes those who follow.
        clock: Where time comes from.
    """

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        tables: TableCatalog,
        reader: TableReader,
        resolver: Resolver,
        deployer: Deployer,
        authority: Authority,
        changes: Changes,
        clock: Clock,
    ) -> None:
        self._endpoints = endpoints
        self._tables = tables
        self._reader = reader
        self._resolver = resolver
        self._deployer = deployer
        self._authority = authority
        self._changes = changes
        self._clock = clock

    async def create(self, caller: Principal, new: NewEndpoint, request_id: str) -> Endpoint:
        """Create an endpoint and begin to make its configuration ready.

        Args:
            caller: Who owns it from then on.
            new: What to make.
            request_id: A call that is sent again under it creates nothing; may be empty.
        """
        name = new.name
        check_name(name)
        check_entities(new.entities)
        await self._authority.require(
            caller,
            securable_pb2.PRIVILEGE_CREATE_ENDPOINT,
            securable_pb2.SECURABLE_TYPE_METASTORE,
            "metastore",
        )
        earlier = await self._endpoints.find_request(caller.name, request_id)
        if earlier is not None:
            return _same(earlier, name)
        await self._check_free(name)
        endpoint_id, now = new_id(), self._clock.now()
        config = await self._resolver.resolve(caller, endpoint_id, 1, new.entities, now)
        config = replace(config, traffic=new.traffic)
        endpoint = Endpoint(
            endpoint_id=endpoint_id,
            name=name,
            comment=new.comment,
            table_prefix=new.table_prefix or name,
            table=await self._make_table(
                caller, new, config.signature, _table_request(caller, request_id, endpoint_id)
            ),
            created_by=caller.name,
            created_at=now,
            updated_at=now,
            etag="",
            settings=new.settings,
        ).begin(config, now, new_etag())
        # Known to the catalog before it is known here, so that it can be granted as soon as it is
        # seen; a second attempt after a crash in between changes nothing.
        await self._authority.register(_ENDPOINT, name, caller.name)
        told = events.changed(endpoint, Step.CREATED, caller.name)
        stored = await self._endpoints.add(endpoint, request_id, [told])
        if stored.endpoint_id == endpoint_id:
            self._deployer.deploy(stored)
        return _same(stored, name)

    async def get(self, caller: Principal, name: str) -> Endpoint:
        """Read an endpoint."""
        endpoint = await self._endpoints.get(name)
        if not await may_see(self._authority, caller, name):
            raise EndpointNotFound(f"there is no endpoint {name!r}")
        return endpoint

    async def page(
        self, caller: Principal, after: str, limit: int
    ) -> tuple[Sequence[Endpoint], str]:
        """Endpoints that the caller may see, and the name after which the next page starts.

        The name is empty on the last page.
        """
        found: list[Endpoint] = []
        while True:
            batch = await self._endpoints.page(after, limit + 1)
            for endpoint in batch:
                if len(found) == limit:
                    return found, after
                after = endpoint.name
                if await may_see(self._authority, caller, endpoint.name):
                    found.append(endpoint)
            if len(batch) <= limit:
                return found, ""

    async def update_config(
        self,
        caller: Principal,
        name: str,
        entities: Sequence[EntityRequest],
        etag: str,
        traffic: TrafficPolicy | None = None,
    ) -> Endpoint:
        """Begin to change what an endpoint serves.

        Raises:
            AccessDenied: The caller may not change it, or not allow code in it.
        """
        check_entities(entities)
        stored = await self.managed(caller, name, etag)
        if any(entity.allow_code for entity in entities):
            _check_creator(caller, stored)
        return await self._begin(caller, stored, entities, traffic or TrafficPolicy())

    async def rollback(
        self, caller: Principal, name: str, config_version: int, etag: str
    ) -> Endpoint:
        """Begin to serve what an earlier configuration served.

        Args:
            caller: Who asks.
            name: The endpoint's.
            config_version: The configuration's number; 0 for the one that answered last before
                the one that answers now.
            etag: Of the state that was read; empty for any.

        Raises:
            ConfigNotFound: The endpoint had no such configuration.
            EndpointNotReady: Nothing answers yet, so nothing answered before.
        """
        stored = await self.managed(caller, name, etag)
        earlier = await self._earlier(stored, config_version)
        entities = [entity.asked_again() for entity in earlier.entities]
        return await self._begin(
            caller, stored, entities, earlier.traffic, rollback_of=earlier.version
        )

    async def _earlier(self, endpoint: Endpoint, version: int) -> EndpointConfig:
        if version:
            found = await self._endpoints.configs(endpoint.endpoint_id, version + 1, 1)
            if found and found[0].version == version:
                return found[0]
            raise ConfigNotFound(f"endpoint {endpoint.name!r} never had configuration {version}")
        if endpoint.config is None:
            raise EndpointNotReady(f"endpoint {endpoint.name!r} serves nothing yet")
        below = endpoint.config.version
        while found := await self._endpoints.configs(endpoint.endpoint_id, below, _BATCH):
            for config in found:
                if config.ready_at is not None:
                    return config
            below = found[-1].version
        raise ConfigNotFound(f"no configuration of endpoint {endpoint.name!r} answered before")

    async def _begin(
        self,
        caller: Principal,
        stored: Endpoint,
        entities: Sequence[EntityRequest],
        traffic: TrafficPolicy,
        *,
        rollback_of: int = 0,
    ) -> Endpoint:
        now = self._clock.now()
        # The models are read with the creator's rights for as long as the endpoint lives, so these
        # must suffice, whoever changes it.
        creator = caller if caller.name == stored.created_by else Principal(stored.created_by)
        config = await self._resolver.resolve(
            creator, stored.endpoint_id, stored.last_config_version + 1, entities, now
        )
        config = replace(config, rollback_of=rollback_of, traffic=traffic)
        endpoint = stored.begin(config, now, new_etag())
        step = Step.ROLLBACK_STARTED if rollback_of else Step.UPDATE_STARTED
        told = events.changed(endpoint, step, caller.name)
        await self._endpoints.save(endpoint, stored.etag, [told])
        self._deployer.deploy(endpoint)
        self._changes.ring(stored.name)
        return endpoint

    async def cancel(self, caller: Principal, name: str, etag: str) -> Endpoint:
        """Give up the configuration that is being made ready."""
        stored = await self.managed(caller, name, etag)
        endpoint = stored.cancel(self._clock.now(), new_etag())
        told = events.changed(endpoint, Step.UPDATE_CANCELED, caller.name)
        await self._endpoints.save(endpoint, stored.etag, [told])
        await self._deployer.cancel(endpoint)
        return endpoint

    async def update(
        self,
        caller: Principal,
        name: str,
        comment: str,
        settings: EndpointSettings,
        fields: Collection[str],
        etag: str,
    ) -> Endpoint:
        """Change the named fields of what is said about an endpoint."""
        stored = await self.managed(caller, name, etag)
        endpoint = stored.with_settings(
            comment if "comment" in fields else stored.comment,
            stored.settings.changed(settings, fields),
            self._clock.now(),
            new_etag(),
        )
        told = events.changed(endpoint, Step.SETTINGS_CHANGED, caller.name)
        await self._endpoints.save(endpoint, stored.etag, [told])
        self._deployer.apply(endpoint)
        return endpoint

    async def configs(
        self, caller: Principal, name: str, below: int | None, limit: int
    ) -> tuple[Sequence[EndpointConfig], int]:
        """Configurations of an endpoint, newest first, and where the next page starts.

        The place is a configuration's number that is passed on as `below`; 0 on the last page.
        """
        endpoint = await self.get(caller, name)
        found = await self._endpoints.configs(endpoint.endpoint_id, below, limit + 1)
        return found[:limit], found[limit - 1].version if len(found) > limit else 0

    async def update_traffic(
        self,
        caller: Principal,
        name: str,
        shares: Mapping[str, int],
        etag: str,
        *,
        shadows: Mapping[str, int] | None = None,
        traffic: TrafficPolicy | None = None,
    ) -> Endpoint:
        """Change the traffic shares of what is served, at once."""
        while True:
            stored = await self.managed(caller, name, etag)
            endpoint = stored.with_shares(
                shares, self._clock.now(), new_etag(), shadows=shadows, traffic=traffic
            )
            try:
                told = events.changed(endpoint, Step.TRAFFIC_CHANGED, caller.name)
                await self._endpoints.save(endpoint, stored.etag, [told])
            except StaleEtag:
                if etag:
                    raise
                continue
            self._deployer.apply(endpoint)
            return endpoint

    async def watch(self, caller: Principal, name: str) -> AsyncIterator[Endpoint]:
        """The endpoint at once and after every change, until it is deleted."""
        seen = ""
        while True:
            bell = self._changes.bell(name)
            try:
                endpoint = await self.get(caller, name)
            except EndpointNotFound:
                if not seen:
                    raise
                return
            if endpoint.etag != seen:
                seen = endpoint.etag
                yield endpoint
                continue
            # Another process may change it, whose bells are not heard here.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await bell.wait()

    async def delete(self, caller: Principal, name: str, etag: str) -> None:
        """Delete an endpoint; its inference table stays."""
        while True:
            stored = await self.managed(caller, name, etag)
            try:
                await self._endpoints.delete(stored, [events.deleted(stored, caller.name)])
                break
            except StaleEtag:
                if etag:
                    raise
        await self._deployer.remove(stored)
        try:
            await self._authority.unregister(_ENDPOINT, name)
        except Unavailable as error:
            # Its grants outlive it for now; they are its owner's, who alone can take the name.
            _log.error("endpoint %s is deleted but still known to the catalog: %s", name, error)

    async def statistics(
        self, caller: Principal, name: str, since: datetime | None
    ) -> TableStatistics:
        """Count the endpoint's inference table; needs SELECT on it."""
        endpoint = await self.get(caller, name)
        await self._authority.require(
            caller,
            securable_pb2.PRIVILEGE_SELECT,
            securable_pb2.SECURABLE_TYPE_TABLE,
            endpoint.table.full_name,
        )
        return await self._reader.statistics(endpoint.table, since)

    async def _make_table(
        self, caller: Principal, new: NewEndpoint, signature: Signature, request_id: str
    ) -> InferenceTable:
        full_name = f"{new.schema}.{new.table_prefix or new.name}_payload"
        try:
            return await self._tables.create_inference_table(
                caller.name,
                full_name,
                f"Requests and responses of the endpoint {new.name}",
                request_id,
                columns_of(signature),
                new.settings.retention_days,
            )
        except AlreadyExists:
            raise TableUnavailable(
                f"there is a table {full_name!r} already; choose another table_name_prefix",
                metadata={"table": full_name},
            ) from None

    async def _check_free(self, name: str) -> None:
        try:
            await self._endpoints.get(name)
        except EndpointNotFound:
            return
        raise EndpointExists(f"there is an endpoint {name!r} already")

    async def managed(self, caller: Principal, name: str, etag: str) -> Endpoint:
        """The endpoint, for a caller that may change it.

        Raises:
            EndpointNotFound: There is none, or the caller may not see it.
            AccessDenied: The caller may not change it.
            StaleEtag: It is not in the state of the etag.
        """
        endpoint = await self.get(caller, name)
        await self._authority.require(caller, _MANAGE, _ENDPOINT, name)
        endpoint.check_etag(etag)
        return endpoint


def _table_request(caller: Principal, request_id: str, endpoint_id: str) -> str:
    """The request id of the table's creation.

    A call that is sent again after it failed halfway gets the table that it made.
    """
    if not request_id:
        return endpoint_id
    return hashlib.sha256(f"{caller.name}\0{request_id}".encode()).hexdigest()[:64]


def _same(endpoint: Endpoint, name: str) -> Endpoint:
    if endpoint.name != name:
        raise RequestIdReused(f"this request id was used to create endpoint {endpoint.name!r}")
    return endpoint


def _check_creator(caller: Principal, endpoint: Endpoint) -> None:
    if not caller.is_admin and caller.name != endpoint.created_by:
        raise AccessDenied(
            f"{caller.name}: only {endpoint.created_by}, who created endpoint {endpoint.name!r}, "
            "and administrators may set allow_code"
        )
