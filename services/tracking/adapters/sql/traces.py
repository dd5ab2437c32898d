"""Traces in SQL: what is known of each, and what is said of it; their spans are elsewhere."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.tables import (
    ASSESSMENTS,
    TRACE_LINKS,
    TRACE_METADATA,
    TRACE_TAGS,
    TRACES,
)
from services.tracking.adapters.sql.trace_search import TraceSearch
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.traces.assessment import (
    Assessment,
    AssessmentKind,
    number_of,
    text_of,
)
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.ports import TraceQuery

__all__ = ["SqlTraces"]

# PostgreSQL takes 32,767 parameters in a statement, SQLite by default as many.
_AT_ONCE = 500
_PARTS = (TRACE_TAGS, TRACE_METADATA, TRACE_LINKS, ASSESSMENTS)


class SqlTraces:
    """The trace store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """Return the traces that there are, by id."""
        found: dict[str, Trace] = {}
        for some in _parts(sorted(set(trace_ids))):
            statement = sa.select(TRACES).where(TRACES.c.trace_id.in_(some))
            found.update((one.trace_id, one) for one in await self._read(statement))
        return found

    async def lock(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """As `get`; until the work ends nobody else locks these, the missing ones included."""
        if self._session.get_bind().dialect.name == "postgresql":
            for trace_id in sorted(set(trace_ids)):
                key = sa.func.hashtextextended(trace_id, 0)
                await self._session.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
        return await self.get(trace_ids)

    async def find(self, query: TraceQuery) -> list[Trace]:
        """Return traces in order."""
        search = TraceSearch(self._session.get_bind().dialect.name)
        return await self._read(search.statement(sa.select(TRACES), query))

    async def oldest(self, experiment_id: str, *, until: Micros, limit: int) -> list[str]:
        """Return the ids of an experiment's traces that began by a time, the oldest first."""
        statement = (
            sa.select(TRACES.c.trace_id)
            .where(TRACES.c.experiment_id == experiment_id, TRACES.c.requested_at <= until)
            .order_by(TRACES.c.requested_at, TRACES.c.trace_id)
            .limit(limit)
        )
        return list((await self._session.execute(statement)).scalars())

    async def put(self, traces: Sequence[Trace]) -> None:
        """Store the new state of locked traces."""
        await self.delete([one.trace_id for one in traces])
        await self._insert(TRACES, [_row(one) for one in traces])
        for table, pairs in ((TRACE_TAGS, "tags"), (TRACE_METADATA, "metadata")):
            await self._insert(
                table,
                [
                    {"trace_id": one.trace_id, "key": key, "value": value}
                    for one in traces
                    for key, value in getattr(one, pairs).items()
                ],
            )
        await self._insert(
            TRACE_LINKS,
            [
                {"trace_id": one.trace_id, "kind": kind, "value": value}
                for one in traces
                for kind, values in (("run", one.runs), ("prompt", one.prompts))
                for value in sorted(values)
            ],
        )
        await self._insert(ASSESSMENTS, [_said(said) for one in traces for said in one.assessments])

    async def delete(self, trace_ids: Collection[str]) -> None:
        """Forget locked traces and all that is said of them."""
        for some in _parts(sorted(set(trace_ids))):
            for table in (*_PARTS, TRACES):
                await self._session.execute(sa.delete(table).where(table.c.trace_id.in_(some)))

    async def _insert(self, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            await self._session.execute(sa.insert(table), rows)

    async def _read(self, statement: sa.Select[Any]) -> list[Trace]:
        rows = (await self._session.execute(statement)).all()
        found: list[Trace] = []
        for some in _parts(rows):
            found += await self._with_parts(some)
        return found

    async def _with_parts(self, rows: Sequence[Any]) -> list[Trace]:
        ids = [row.trace_id for row in rows]
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        metadata: dict[str, dict[str, str]] = defaultdict(dict)
        links: dict[tuple[str, str], set[str]] = defaultdict(set)
        said: dict[str, list[Assessment]] = defaultdict(list)
        for table, pairs in ((TRACE_TAGS, tags), (TRACE_METADATA, metadata)):
            for trace_id, key, value in await self._part(table, ids, table.c.key):
                pairs[trace_id][key] = value
        for trace_id, kind, value in await self._part(TRACE_LINKS, ids, TRACE_LINKS.c.value):
            links[trace_id, kind].add(value)
        order = (ASSESSMENTS.c.created_at, ASSESSMENTS.c.assessment_id)
        for row in await self._part(ASSESSMENTS, ids, *order):
            said[row.trace_id].append(_assessment(row.document))
        return [
            _trace(
                row,
                tags=tags[row.trace_id],
                metadata=metadata[row.trace_id],
                runs=frozenset(links[row.trace_id, "run"]),
                prompts=frozenset(links[row.trace_id, "prompt"]),
                assessments=tuple(said[row.trace_id]),
            )
            for row in rows
        ]

    async def _part(
        self, table: sa.Table, trace_ids: Sequence[str], *order: sa.ColumnElement[Any]
    ) -> Iterable[Any]:
        statement = sa.select(table).where(table.c.trace_id.in_(trace_ids)).order_by(*order)
        return await self._session.execute(statement)


def _parts(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))


def _row(trace: Trace) -> dict[str, Any]:
    return {
        "trace_id": trace.trace_id,
        "experiment_id": trace.experiment_id,
        "requested_at": trace.requested_at,
        "duration": trace.duration,
        "state": str(trace.state),
        "client_request_id": trace.client_request_id,
        "request_preview": trace.request_preview,
        "response_preview": trace.response_preview,
        "finalized": trace.finalized,
    }


def _trace(row: Any, **parts: Any) -> Trace:
    return Trace(
        trace_id=row.trace_id,
        experiment_id=row.experiment_id,
        requested_at=row.requested_at,
        duration=row.duration,
        state=TraceState(row.state),
        client_request_id=row.client_request_id,
        request_preview=row.request_preview,
        response_preview=row.response_preview,
        finalized=row.finalized,
        **parts,
    )


def _said(assessment: Assessment) -> dict[str, Any]:
    return {
        "trace_id": assessment.trace_id,
        "assessment_id": assessment.assessment_id,
        "kind": str(assessment.kind),
        "name": assessment.name,
        "text": text_of(assessment.value),
        "number": number_of(assessment.value),
        "created_at": assessment.created_at,
        "document": json.dumps(asdict(assessment), ensure_ascii=False),
    }


def _assessment(document: str) -> Assessment:
    fields = json.loads(document)
    return Assessment(**{**fields, "kind": AssessmentKind(fields["kind"])})
