"""Traces in SQL: what is known of each, and what is said of it; their spans are elsewhere."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from services.tracking.adapters.sql.trace_figures import measures_in_sql
from services.tracking.adapters.sql.trace_search import KEPT, TraceSearch
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.traces.assessment import (
    Assessment,
    AssessmentKind,
    number_of,
    text_of,
)
from services.tracking.domain.traces.metrics import Measure, MetricsQuery
from services.tracking.domain.traces.trace import Trace, TraceState
from services.tracking.ports.traces import TraceQuery

__all__ = ["SqlTraces"]

# PostgreSQL takes 32,767 parameters in a statement, SQLite by default as many.
_AT_ONCE = 500
_RowsOf = Callable[[Trace], list[dict[str, Any]]]


class SqlTraces:
    """The trace store in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._before: dict[str, Trace] = {}
        """Locked traces as they are stored."""

    async def homes(self, trace_ids: Collection[str]) -> dict[str, str]:
        """Return the experiments of the traces that there are, by id."""
        found: dict[str, str] = {}
        for some in _parts(_possible(trace_ids)):
            statement = sa.select(TRACES.c.trace_id, TRACES.c.experiment_id)
            rows = await self._session.execute(statement.where(TRACES.c.trace_id.in_(some), KEPT))
            found.update((row.trace_id, row.experiment_id) for row in rows)
        return found

    async def get(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """Return the traces that there are, by id."""
        found: dict[str, Trace] = {}
        for some in _parts(_possible(trace_ids)):
            statement = sa.select(TRACES).where(TRACES.c.trace_id.in_(some), KEPT)
            found.update((one.trace_id, one) for one in await self._read(statement))
        return found

    async def lock(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """As `get`; until the work ends nobody else locks these, the missing ones included."""
        if self._session.get_bind().dialect.name == "postgresql":
            for trace_id in _possible(trace_ids):
                key = sa.func.hashtextextended(trace_id, 0)
                await self._session.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
        found = await self.get(trace_ids)
        self._before.update(found)
        return found

    async def find(self, query: TraceQuery) -> list[Trace]:
        """Return traces in order."""
        search = TraceSearch(self._session.get_bind().dialect.name)
        return await self._read(search.statement(sa.select(TRACES), query))

    async def count(self, query: TraceQuery) -> int:
        """Return how many traces match."""
        search = TraceSearch(self._session.get_bind().dialect.name)
        statement = sa.select(sa.func.count()).select_from(TRACES)
        return int((await self._session.scalar(search.matching(statement, query))) or 0)

    async def measures(self, query: TraceQuery, asked: MetricsQuery) -> list[Measure]:
        """Return what traces, or what is said of them, add to figures."""
        return await measures_in_sql(self._session, query, asked)

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
        """Store the new state of locked traces; what did not change is not written."""
        new = [one for one in traces if one.trace_id not in self._before]
        await self._insert(TRACES, [_row(one) for one in new])
        for trace in traces:
            before = self._before.get(trace.trace_id)
            if before is not None and _row(before) != _row(trace):
                own = TRACES.c.trace_id == trace.trace_id
                await self._session.execute(sa.update(TRACES).where(own).values(_row(trace)))
        for table, rows_of in _PARTS.items():
            changed = [one for one in traces if rows_of(one) != self._rows_before(one, rows_of)]
            for some in _parts([one.trace_id for one in changed if one.trace_id in self._before]):
                await self._session.execute(sa.delete(table).where(table.c.trace_id.in_(some)))
            await self._insert(table, [row for one in changed for row in rows_of(one)])
        self._before.update((one.trace_id, one) for one in traces)

    def _rows_before(self, trace: Trace, rows_of: _RowsOf) -> list[dict[str, Any]]:
        before = self._before.get(trace.trace_id)
        return [] if before is None else rows_of(before)

    async def delete(self, trace_ids: Collection[str]) -> None:
        """Forget locked traces and all that is said of them."""
        for some in _parts(_possible(trace_ids)):
            for table in (*_PARTS, TRACES):
                await self._session.execute(sa.delete(table).where(table.c.trace_id.in_(some)))
        for trace_id in trace_ids:
            self._before.pop(trace_id, None)

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


def _possible(trace_ids: Collection[str]) -> list[str]:
    """Return ids in order, each once; PostgreSQL refuses to look for one that holds a NUL."""
    return sorted({one for one in trace_ids if "\x00" not in one})


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


def _tags(trace: Trace) -> list[dict[str, Any]]:
    return _pairs(trace, trace.tags)


def _metadata(trace: Trace) -> list[dict[str, Any]]:
    return _pairs(trace, trace.metadata)


def _pairs(trace: Trace, pairs: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"trace_id": trace.trace_id, "key": key, "value": pairs[key]} for key in sorted(pairs)]


def _links(trace: Trace) -> list[dict[str, Any]]:
    return [
        {"trace_id": trace.trace_id, "kind": kind, "value": value}
        for kind, values in (("run", trace.runs), ("prompt", trace.prompts))
        for value in sorted(values)
    ]


def _assessments(trace: Trace) -> list[dict[str, Any]]:
    return [
        {
            "trace_id": trace.trace_id,
            "assessment_id": one.assessment_id,
            "kind": str(one.kind),
            "name": one.name,
            "text": text_of(one.value),
            "number": number_of(one.value),
            "created_at": one.created_at,
            "document": json.dumps(asdict(one), ensure_ascii=False),
        }
        for one in trace.assessments
    ]


_PARTS: dict[sa.Table, _RowsOf] = {
    TRACE_TAGS: _tags,
    TRACE_METADATA: _metadata,
    TRACE_LINKS: _links,
    ASSESSMENTS: _assessments,
}


def _assessment(document: str) -> Assessment:
    fields = json.loads(document)
    return Assessment(**{**fields, "kind": AssessmentKind(fields["kind"])})
