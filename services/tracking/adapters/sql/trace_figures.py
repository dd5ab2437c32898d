"""What traces, and what is said of them, add to figures: equal ones come as one, with their number.

So the database groups, and neither whole traces nor one row for each of them are read. Numbers lie
in texts that clients write as they like, which Python reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from services.tracking.adapters.sql.tables import ASSESSMENTS, TRACE_METADATA, TRACE_TAGS, TRACES
from services.tracking.adapters.sql.trace_search import TraceSearch
from services.tracking.domain.traces.assessment import AssessmentKind
from services.tracking.domain.traces.metrics import (
    AssessmentFact,
    Measure,
    MetricsQuery,
    Subject,
    TraceFact,
    measures_of_assessment,
    measures_of_trace,
    metadata_key,
)
from services.tracking.domain.traces.trace import NAME_TAG
from services.tracking.ports.traces import TraceQuery

__all__ = ["measures_in_sql"]

_Columns = dict[str, sa.ColumnElement[Any]]
_MICROS = 1_000_000


async def measures_in_sql(
    session: AsyncSession, query: TraceQuery, asked: MetricsQuery
) -> list[Measure]:
    """Return what the traces that match, or what is said of them, add to figures."""
    dialect = session.get_bind().dialect.name
    of_traces = asked.subject is Subject.TRACES
    statement, columns = _of_traces(asked) if of_traces else _of_assessments(asked, dialect)
    if seconds := asked.interval_seconds:
        # The first moment of the span of time, which the whole of it stands for.
        width = sa.literal(seconds * _MICROS, sa.BigInteger)
        columns["at"] = (TRACES.c.requested_at // width) * width
    labelled = [column.label(name) for name, column in columns.items()]
    number = sa.func.count().label("count")
    grouped: sa.Select[Any] = statement.with_only_columns(*labelled, number).group_by(*labelled)
    rows = (await session.execute(TraceSearch(dialect).matching(grouped, query))).mappings()
    measures = _trace_measures if of_traces else _assessment_measures
    return [measure for row in rows for measure in measures(asked, {"at": 0, **row})]


def _of_traces(asked: MetricsQuery) -> tuple[sa.Select[Any], _Columns]:
    statement, columns = sa.select(TRACES.c.trace_id).select_from(TRACES), _Columns()
    if "trace_name" in asked.dimensions:
        statement, columns["name"] = _joined(statement, TRACE_TAGS, NAME_TAG)
    if "trace_status" in asked.dimensions:
        columns["state"] = TRACES.c.state
    if asked.metric == "latency":
        columns["duration"] = TRACES.c.duration
    if key := metadata_key(asked.metric):
        statement, columns["text"] = _joined(statement, TRACE_METADATA, key)
    return statement, columns


def _joined(
    statement: sa.Select[Any], table: sa.Table, key: str
) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    """Return the statement without traces that lack a key, and the key's value."""
    one = table.alias()
    own = sa.and_(one.c.trace_id == TRACES.c.trace_id, one.c.key == key)
    return statement.join(one, own), one.c.value


def _of_assessments(asked: MetricsQuery, dialect: str) -> tuple[sa.Select[Any], _Columns]:
    said, wanted = ASSESSMENTS.c, asked.assessments
    statement = (
        sa.select(TRACES.c.trace_id)
        .join(ASSESSMENTS, said.trace_id == TRACES.c.trace_id)
        .where(said.kind != str(AssessmentKind.ISSUE), _part(dialect, "valid") == "true")
    )
    if wanted.name:
        statement = statement.where(said.name == wanted.name)
    if wanted.kind:
        statement = statement.where(said.kind == wanted.kind)
    columns = _Columns()
    if "assessment_name" in asked.dimensions:
        columns["name"] = said.name
    if asked.metric == "assessment_value" or "assessment_value" in asked.dimensions:
        columns["value"] = _part(dialect, "value")
    return statement, columns


def _part(dialect: str, key: str) -> sa.ColumnElement[Any]:
    """Return a field of an assessment's document, as JSON."""
    document = ASSESSMENTS.c.document
    if dialect == "sqlite":
        return document.op("->", return_type=sa.Text())(f"$.{key}")
    return sa.cast(sa.cast(document, postgresql.JSON).op("->")(key), sa.Text)


def _trace_measures(asked: MetricsQuery, row: dict[str, Any]) -> Iterator[Measure]:
    return measures_of_trace(asked, TraceFact(**row))


def _assessment_measures(asked: MetricsQuery, row: dict[str, Any]) -> Iterator[Measure]:
    value = json.loads(row.pop("value", "null"))
    return measures_of_assessment(asked, AssessmentFact(**row, value=value))
