"""Endpoints, their configurations and their tables in inference's database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.inference.adapters.sql.rows import (
    config_row,
    config_value,
    endpoint_row,
    endpoint_value,
)
from services.inference.adapters.sql.tables import (
    CONFIG,
    ENDPOINT,
    INFERENCE_TABLE,
    PAYLOAD_TABLE,
)
from services.inference.domain.bodies import PayloadTable
from services.inference.domain.endpoint import Endpoint, EndpointConfig, InferenceTable
from services.inference.errors import EndpointExists, EndpointNotFound, StaleEtag
from tessera_kit.bus.event import Event
from tessera_kit.store.sql import Database, UnitOfWork

__all__ = ["SqlEndpoints"]


class SqlEndpoints:
    """`ports.Endpoints` and `ports.Tables` in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, endpoint: Endpoint, request_id: str, tells: Sequence[Event]) -> Endpoint:
        """Store a new endpoint."""
        async with UnitOfWork(self._database) as uow:
            try:
                await self._insert(uow.session, endpoint, request_id)
            except IntegrityError:
                await uow.rollback()
                earlier = await self.find_request(endpoint.created_by, request_id)
                if earlier is not None:
                    return earlier
                raise EndpointExists(f"there is an endpoint {endpoint.name!r} already") from None
            for event in tells:
                uow.publish(event)
            await uow.commit()
        return endpoint

    async def find_request(self, principal: str, request_id: str) -> Endpoint | None:
        """The endpoint of an earlier `add` of this creator with this request id."""
        if not request_id:
            return None
        found = await self._select(
            sa.select(ENDPOINT).where(
                ENDPOINT.c.created_by == principal, ENDPOINT.c.request_id == request_id
            )
        )
        return found[0] if found else None

    async def get(self, name: str) -> Endpoint:
        """Read an endpoint."""
        found = await self._select(sa.select(ENDPOINT).where(ENDPOINT.c.name == name))
        if not found:
            raise EndpointNotFound(f"there is no endpoint {name!r}")
        return found[0]

    async def page(self, after: str, limit: int) -> Sequence[Endpoint]:
        """Endpoints with names above `after`, by name."""
        return await self._select(
            sa.select(ENDPOINT)
            .where(ENDPOINT.c.name > after)
            .order_by(ENDPOINT.c.name)
            .limit(limit)
        )

    async def all(self) -> Sequence[Endpoint]:
        """Every endpoint, by name."""
        return await self._select(sa.select(ENDPOINT).order_by(ENDPOINT.c.name))

    async def save(self, endpoint: Endpoint, read_etag: str, tells: Sequence[Event]) -> None:
        """Store a changed endpoint."""
        async with UnitOfWork(self._database) as uow:
            result = await uow.session.execute(
                sa.update(ENDPOINT)
                .where(ENDPOINT.c.endpoint_id == endpoint.endpoint_id, ENDPOINT.c.etag == read_etag)
                .values(**endpoint_row(endpoint))
            )
            _check_changed(result, endpoint)
            for config in _configs_of(endpoint):
                await self._put_config(uow.session, endpoint.endpoint_id, config)
            for event in tells:
                uow.publish(event)
            await uow.commit()

    async def configs(
        self, endpoint_id: str, below: int | None, limit: int
    ) -> Sequence[EndpointConfig]:
        """Configurations of an endpoint, the newest first."""
        query = sa.select(CONFIG).where(CONFIG.c.endpoint_id == endpoint_id)
        if below is not None:
            query = query.where(CONFIG.c.version < below)
        async with self._database.sessions() as session:
            found = await session.execute(query.order_by(CONFIG.c.version.desc()).limit(limit))
        return [config_value(row) for row in found.mappings()]

    async def delete(self, endpoint: Endpoint, tells: Sequence[Event]) -> None:
        """Delete the endpoint; the place of its table stays known."""
        async with UnitOfWork(self._database) as uow:
            result = await uow.session.execute(
                sa.delete(ENDPOINT).where(
                    ENDPOINT.c.endpoint_id == endpoint.endpoint_id,
                    ENDPOINT.c.etag == endpoint.etag,
                )
            )
            _check_changed(result, endpoint)
            for event in tells:
                uow.publish(event)
            await uow.commit()

    async def table_of(self, endpoint: str, endpoint_id: str = "") -> InferenceTable | None:
        """The table of an endpoint; None when there never was one."""
        table = PAYLOAD_TABLE if endpoint_id else INFERENCE_TABLE
        query = sa.select(table).where(table.c.endpoint == endpoint)
        if endpoint_id:
            query = query.where(PAYLOAD_TABLE.c.endpoint_id == endpoint_id)
        async with self._database.sessions() as session:
            row = (await session.execute(query)).first()
        if row is None:
            return None
        return InferenceTable(row.full_name, row.database_name, row.table_name)

    async def table_named(self, full_name: str) -> PayloadTable | None:
        """The table of that full name, the newest if there were several."""
        # Ids of version 7 are in the order of their making.
        newest = PAYLOAD_TABLE.c.endpoint_id.desc()
        query = sa.select(PAYLOAD_TABLE).where(PAYLOAD_TABLE.c.full_name == full_name)
        found = await self._payload_tables(query.order_by(newest).limit(1))
        return found[0] if found else None

    async def payload_tables(self, endpoint: str = "") -> Sequence[PayloadTable]:
        """Every table, the newest endpoint's first."""
        query = sa.select(PAYLOAD_TABLE).order_by(PAYLOAD_TABLE.c.endpoint_id.desc())
        if endpoint:
            query = query.where(PAYLOAD_TABLE.c.endpoint == endpoint)
        return await self._payload_tables(query)

    async def expiring_tables(self) -> Sequence[PayloadTable]:
        """The tables that do not keep their rows for ever."""
        return await self._payload_tables(
            sa.select(PAYLOAD_TABLE).where(PAYLOAD_TABLE.c.retention_days > 0)
        )

    async def _payload_tables(self, query: sa.Select[Any]) -> list[PayloadTable]:
        async with self._database.sessions() as session:
            rows = (await session.execute(query)).all()
        return [
            PayloadTable(
                row.endpoint_id,
                InferenceTable(row.full_name, row.database_name, row.table_name),
                row.retention_days,
                row.endpoint,
            )
            for row in rows
        ]

    async def _insert(self, session: AsyncSession, endpoint: Endpoint, request_id: str) -> None:
        await session.execute(
            sa.insert(ENDPOINT).values(**endpoint_row(endpoint), request_id=request_id or None)
        )
        for config in _configs_of(endpoint):
            await self._put_config(session, endpoint.endpoint_id, config)
        table = endpoint.table
        await session.execute(
            sa.delete(INFERENCE_TABLE).where(INFERENCE_TABLE.c.endpoint == endpoint.name)
        )
        place = {
            "endpoint": endpoint.name,
            "full_name": table.full_name,
            "database_name": table.database,
            "table_name": table.table,
        }
        await session.execute(sa.insert(INFERENCE_TABLE).values(**place))
        await session.execute(
            sa.insert(PAYLOAD_TABLE).values(
                **place,
                endpoint_id=endpoint.endpoint_id,
                retention_days=endpoint.settings.retention_days,
            )
        )

    async def _put_config(
        self, session: AsyncSession, endpoint_id: str, config: EndpointConfig
    ) -> None:
        row = config_row(endpoint_id, config)
        updated = await session.execute(
            sa.update(CONFIG)
            .where(
                CONFIG.c.endpoint_id == endpoint_id,
                CONFIG.c.version == config.version,
            )
            .values(entities=row["entities"], traffic=row["traffic"], ready_at=row["ready_at"])
        )
        if cast("sa.CursorResult[Any]", updated).rowcount == 0:
            await session.execute(sa.insert(CONFIG).values(**row))

    async def _select(self, query: sa.Select[Any]) -> list[Endpoint]:
        async with self._database.sessions() as session:
            rows = (await session.execute(query)).mappings().all()
            configs = await self._configs(session, rows)
        return [endpoint_value(row, configs[row["endpoint_id"]]) for row in rows]

    @staticmethod
    async def _configs(
        session: AsyncSession, rows: Sequence[Mapping[Any, Any]]
    ) -> Mapping[str, dict[int, EndpointConfig]]:
        """The configurations that the rows name, by endpoint id and version."""
        configs: defaultdict[str, dict[int, EndpointConfig]] = defaultdict(dict)
        wanted = [
            (row["endpoint_id"], version)
            for row in rows
            for version in (row["config_version"], row["pending_version"])
            if version is not None
        ]
        if wanted:
            key = sa.tuple_(CONFIG.c.endpoint_id, CONFIG.c.version)
            found = await session.execute(sa.select(CONFIG).where(key.in_(wanted)))
            for row in found.mappings():
                configs[row["endpoint_id"]][row["version"]] = config_value(row)
        return configs


def _configs_of(endpoint: Endpoint) -> list[EndpointConfig]:
    return [config for config in (endpoint.config, endpoint.pending) if config is not None]


def _check_changed(result: sa.Result[Any], endpoint: Endpoint) -> None:
    if cast("sa.CursorResult[Any]", result).rowcount != 1:
        raise StaleEtag(f"endpoint {endpoint.name!r} changed since it was read")
