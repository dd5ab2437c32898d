"""What callers ask of endpoints: create, read, change, follow, delete, count."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from services.inference.domain.endpoint import (
    Endpoint,
    EntityRequest,
    InferenceTable,
    check_entities,
)
from services.inference.errors import (
    EndpointExists,
    EndpointNotFound,
    RequestIdReused,
    StaleEtag,
    TableUnavailable,
)
from services.inference.handlers import events
from services.inference.handlers.changes import Changes
from services.inference.handlers.deployment import Deployer
from services.inference.handlers.resolution import Resolver
from services.inference.ports import Endpoints, TableCatalog, TableReader, TableStatistics
from tessera.catalog.v1 import securable_pb2
from tessera_kit.clock import Clock
from tessera_kit.errors import AlreadyExists, PermissionDenied, Unavailable
from tessera_kit.ids import new_etag, new_id
from tessera_kit.names import check_name
from tessera_kit.rpc.authority import Authority
from tessera_kit.rpc.identity import Principal

__all__ = ["EndpointHandlers"]

_log = logging.getLogger(__name__)

_ENDPOINT: Final = securable_pb2.SECURABLE_TYPE_ENDPOINT
_BROWSE: Final = securable_pb2.PRIVILEGE_BROWSE
_EXECUTE: Final = securable_pb2.PRIVILEGE_EXECUTE
_MANAGE: Final = securable_pb2.PRIVILEGE_MANAGE
_WATCH_SECONDS: Final = 5.0


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

    async def create(
        self,
        caller: Principal,
        name: str,
        comment: str,
        entities: Sequence[EntityRequest],
        schema: str,
        table_prefix: str,
        request_id: str,
    ) -> Endpoint:
        """Create an endpoint and begin to make its configuration ready."""
        check_name(name)
        check_entities(entities)
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
        config = await self._resolver.resolve(caller, endpoint_id, 1, entities, now)
        prefix = table_prefix or name
        # A call that is sent again after it failed halfway gets the table that it made.
        table_request = endpoint_id
        if request_id:
            table_request = hashlib.sha256(f"{caller.name}\0{request_id}".encode()).hexdigest()[:64]
        table = await self._make_table(caller, name, f"{schema}.{prefix}_payload", table_request)
        endpoint = Endpoint(
            endpoint_id=endpoint_id,
            name=name,
            comment=comment,
            table_prefix=prefix,
            table=table,
            created_by=caller.name,
            created_at=now,
            updated_at=now,
            etag="",
        ).begin(config, now, new_etag())
        # Known to the catalog before it is known here, so that it can be granted as soon as it is
        # seen; a second attempt after a crash in between changes nothing.
        await self._authority.register(_ENDPOINT, name, caller.name)
        stored = await self._endpoints.add(endpoint, request_id, [events.changed(endpoint)])
        if stored.endpoint_id == endpoint_id:
            self._deployer.deploy(stored)
        return _same(stored, name)

    async def get(self, caller: Principal, name: str) -> Endpoint:
        """Read an endpoint."""
        endpoint = await self._endpoints.get(name)
        if not await self._sees(caller, name):
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
                if await self._sees(caller, endpoint.name):
                    found.append(endpoint)
            if len(batch) <= limit:
                return found, ""

    async def update_config(
        self, caller: Principal, name: str, entities: Sequence[EntityRequest], etag: str
    ) -> Endpoint:
        """Begin to change what an endpoint serves."""
        check_entities(entities)
        stored = await self._managed(caller, name, etag)
        now = self._clock.now()
        # The models are read with the creator's rights for as long as the endpoint lives, so these
        # must suffice, whoever changes it.
        creator = caller if caller.name == stored.created_by else Principal(stored.created_by)
        config = await self._resolver.resolve(
            creator, stored.endpoint_id, stored.last_config_version + 1, entities, now
        )
        endpoint = stored.begin(config, now, new_etag())
        await self._endpoints.save(endpoint, stored.etag, [events.changed(endpoint)])
        self._deployer.deploy(endpoint)
        self._changes.ring(name)
        return endpoint

    async def update_traffic(
        self, caller: Principal, name: str, shares: Mapping[str, int], etag: str
    ) -> Endpoint:
        """Change the traffic shares of what is served, at once."""
        while True:
            stored = await self._managed(caller, name, etag)
            endpoint = stored.with_shares(shares, self._clock.now(), new_etag())
            try:
                await self._endpoints.save(endpoint, stored.etag, [events.changed(endpoint)])
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
            waiting = asyncio.create_task(self._changes.wait(name, _WATCH_SECONDS))
            try:
                endpoint = await self.get(caller, name)
                if endpoint.etag != seen:
                    seen = endpoint.etag
                    yield endpoint
                    continue
                await waiting
            except EndpointNotFound:
                if not seen:
                    raise
                return
            finally:
                waiting.cancel()

    async def delete(self, caller: Principal, name: str, etag: str) -> None:
        """Delete an endpoint; its inference table stays."""
        while True:
            stored = await self._managed(caller, name, etag)
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
        self, caller: Principal, endpoint: str, full_name: str, request_id: str
    ) -> InferenceTable:
        try:
            return await self._tables.create_inference_table(
                caller.name,
                full_name,
                f"Requests and responses of the endpoint {endpoint}",
                request_id,
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

    async def _managed(self, caller: Principal, name: str, etag: str) -> Endpoint:
        """The endpoint, for a caller that may change it."""
        endpoint = await self.get(caller, name)
        await self._authority.require(caller, _MANAGE, _ENDPOINT, name)
        endpoint.check_etag(etag)
        return endpoint

    async def _sees(self, caller: Principal, name: str) -> bool:
        for privilege in (_BROWSE, _EXECUTE):
            try:
                await self._authority.require(caller, privilege, _ENDPOINT, name)
            except PermissionDenied:
                continue
            return True
        return False


def _same(endpoint: Endpoint, name: str) -> Endpoint:
    if endpoint.name != name:
        raise RequestIdReused(f"this request id was used to create endpoint {endpoint.name!r}")
    return endpoint
