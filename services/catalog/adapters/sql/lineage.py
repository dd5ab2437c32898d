"""Lineage edges and done requests in SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog.adapters.sql.rows import micros, moment
from services.catalog.adapters.sql.tables import EDGES, REQUESTS
from services.catalog.adapters.sql.upsert import upsert
from services.catalog.domain.lineage import LineageEdge, LineageNode, NodeType
from services.catalog.ports import RequestRecord

__all__ = ["SqlLineage", "SqlRequests"]

_CHUNK = 400


class SqlLineage:
    """The `LineageEdges` port."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(self, edges: Iterable[LineageEdge]) -> None:
        """Store edges."""
        dialect = self._session.get_bind().dialect.name
        insert = (postgresql if dialect == "postgresql" else sqlite).insert(EDGES)
        new = insert.excluded
        statement = insert.on_conflict_do_update(
            index_elements=["source", "target"],
            set_={
                "observed_at": new.observed_at,
                "principal": new.principal,
                "source_version": new.source_version,
            },
            where=EDGES.c.observed_at < new.observed_at,
        )
        rows = [
            {
                "source": _text(edge.source),
                "target": _text(edge.target),
                "observed_at": micros(edge.observed_at),
                "principal": edge.principal,
                "source_version": edge.source_version,
            }
            for edge in edges
        ]
        if rows:
            await self._session.execute(statement, rows)

    async def touching(
        self, nodes: Collection[LineageNode], *, upstream: bool, limit: int
    ) -> list[LineageEdge]:
        """Edges into the nodes or out of them."""
        near = EDGES.c.target if upstream else EDGES.c.source
        names = [_text(node) for node in nodes]
        found: list[LineageEdge] = []
        for start in range(0, len(names), _CHUNK):
            query = (
                sa.select(EDGES)
                .where(near.in_(names[start : start + _CHUNK]))
                .order_by(EDGES.c.observed_at.desc(), EDGES.c.source, EDGES.c.target)
                .limit(limit)
            )
            found += [_edge(row) for row in (await self._session.execute(query)).all()]
        found.sort(key=lambda edge: (edge.source, edge.target))
        found.sort(key=lambda edge: edge.observed_at, reverse=True)
        return found[:limit]

    async def of_model(self, model_name: str) -> list[LineageEdge]:
        """Edges of the versions of a model."""
        # A range instead of LIKE: '0' is the character after '/'.
        start = _text(LineageNode(NodeType.MODEL_VERSION, f"{model_name}/"))
        ends = [
            sa.and_(column >= start, column < f"{start[:-1]}0")
            for column in (EDGES.c.source, EDGES.c.target)
        ]
        rows = (await self._session.execute(sa.select(EDGES).where(sa.or_(*ends)))).all()
        return [_edge(row) for row in rows]

    async def remove(self, edges: Iterable[LineageEdge]) -> None:
        """Remove edges."""
        gone = [{"its_source": _text(one.source), "its_target": _text(one.target)} for one in edges]
        if gone:
            await self._session.execute(
                sa.delete(EDGES).where(
                    EDGES.c.source == sa.bindparam("its_source"),
                    EDGES.c.target == sa.bindparam("its_target"),
                ),
                gone,
            )


class SqlRequests:
    """The `Requests` port."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, principal: str, method: str, request_id: str) -> RequestRecord | None:
        """The record of a request."""
        query = sa.select(REQUESTS).where(
            REQUESTS.c.principal == principal,
            REQUESTS.c.method == method,
            REQUESTS.c.request_id == request_id,
        )
        row = (await self._session.execute(query)).one_or_none()
        if row is None:
            return None
        return RequestRecord(
            row.principal,
            row.method,
            row.request_id,
            bytes(row.fingerprint),
            row.result,
            moment(row.created_at),
        )

    async def put(self, record: RequestRecord) -> None:
        """Store a record."""
        row = {
            "principal": record.principal,
            "method": record.method,
            "request_id": record.request_id,
            "fingerprint": record.fingerprint,
            "result": record.result,
            "created_at": micros(record.created_at),
        }
        await self._session.execute(upsert(self._session, REQUESTS, row))

    async def forget(self, before: datetime) -> None:
        """Drop old records."""
        await self._session.execute(
            sa.delete(REQUESTS).where(REQUESTS.c.created_at < micros(before))
        )


def _text(node: LineageNode) -> str:
    return f"{int(node.type)}:{node.name}"


def _node(text: str) -> LineageNode:
    kind, _, name = text.partition(":")
    return LineageNode(NodeType(int(kind)), name)


def _edge(row: sa.Row[Any]) -> LineageEdge:
    return LineageEdge(
        _node(row.source),
        _node(row.target),
        moment(row.observed_at),
        row.principal,
        row.source_version,
    )
