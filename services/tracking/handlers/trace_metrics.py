"""Use case of figures over many traces, spans or assessments."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES, FieldKind, Filter, Operator
from services.tracking.domain.traces.metrics import (
    AssessmentFilter,
    DataPoint,
    MetricsQuery,
    Subject,
    aggregated,
    check_metrics_query,
)
from services.tracking.errors import InvalidFilter, InvalidValue
from services.tracking.handlers.access import Access
from services.tracking.handlers.page_tokens import foreign_token, scope_of
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore, TraceKey, TraceQuery
from tessera_kit.rpc.identity import Principal
from tessera_kit.rpc.pages import decode_page_token, encode_page_token

__all__ = ["MetricsPage", "TraceMetrics"]

_MOST_TRACES: Final = 1000
_PARTS: Final = re.compile(r"\s*trace\.(tag|metadata)\.")
_ASSESSMENT: Final = re.compile(r"""\s*assessment\.(name|type)\s*=\s*(['"])(.*)\2\s*""")


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """A page of figures."""

    points: list[DataPoint]
    next_token: str
    """Where the next page starts; empty on the last page."""


class TraceMetrics:
    """Computes figures.

    Args:
        store: Where traces are kept.
        spans: Where their spans are kept.
        access: Who may see what.
    """

    def __init__(self, store: Store, spans: SpanStore, access: Access) -> None:
        self._store = store
        self._spans = spans
        self._access = access

    async def query(
        self,
        principal: Principal,
        experiment_ids: Collection[str],
        query: MetricsQuery,
        filters: Sequence[str],
        token: str,
    ) -> MetricsPage:
        """Return figures over what the caller may read.

        Args:
            principal: Who asks.
            experiment_ids: Whose traces; those that may not be read have none.
            query: What is asked, without its conditions.
            filters: Conditions that must all hold: `trace.status`, `trace.tag.<key>`,
                `trace.metadata.<key>`, `span.<key>`, `assessment.name`, `assessment.type`.
            token: The `next_token` of the page before.

        Raises:
            InvalidValue: There are no such figures.
            InvalidFilter: A filter does not parse.
            InvalidPageToken: The token was not made by this query.
        """
        check_metrics_query(query)
        query = _with_filters(query, filters)
        scope = scope_of("metrics", sorted(experiment_ids), repr(query))
        query = replace(query, offset=_offset(token, scope), limit=query.limit + 1)
        readable = await self._access.readable(principal, experiment_ids)
        if query.subject is Subject.SPANS:
            traces = await self._traces(readable, query) if query.traces else None
            points = await self._spans.aggregate(readable, query, traces)
        else:
            wanted = TraceQuery(
                experiment_ids=readable,
                filter=query.traces + _times(query.start, query.end),
                limit=0,
            )
            async with self._store.read() as view:
                measures = await view.traces.measures(wanted, query)
            # Sorting and percentiles of many values take their time, in which others are answered.
            points = await asyncio.to_thread(aggregated, query, measures)
        if len(points) < query.limit:
            return MetricsPage(points, "")
        following = encode_page_token({"o": query.offset + query.limit - 1}, scope)
        return MetricsPage(points[:-1], following)

    async def _traces(self, experiment_ids: Collection[str], query: MetricsQuery) -> list[TraceKey]:
        wanted = TraceQuery(
            experiment_ids=experiment_ids, filter=query.traces, limit=_MOST_TRACES + 1
        )
        async with self._store.read() as view:
            found = await view.traces.find(wanted)
        if len(found) > _MOST_TRACES:
            raise InvalidValue(
                f"conditions of traces that more than {_MOST_TRACES} of them meet cannot be "
                "asked of spans; make them narrower",
                "filters",
            )
        return [TraceKey(one.experiment_id, one.trace_id) for one in found]


def _with_filters(query: MetricsQuery, filters: Sequence[str]) -> MetricsQuery:
    for text in filters:
        if (asked := _ASSESSMENT.fullmatch(text)) is not None:
            of = {"name": asked[3]} if asked[1] == "name" else {"kind": asked[3].lower()}
            query = replace(query, assessments=replace(query.assessments, **of))
            continue
        for condition in parse_filter(_PARTS.sub(r"\1.", text), TRACES):
            if condition.operator is not Operator.EQUAL:
                raise InvalidFilter(f"filters: only = is offered here, in {text[:200]!r}", 1)
            if condition.field.kind is FieldKind.SPAN:
                query = replace(query, spans=(*query.spans, condition))
            else:
                query = replace(query, traces=(*query.traces, condition))
    if query.spans and query.subject is not Subject.SPANS:
        raise InvalidValue("conditions of spans can be asked of SPANS only", "filters")
    asks_assessments = query.assessments != AssessmentFilter()
    if asks_assessments and query.subject is not Subject.ASSESSMENTS:
        raise InvalidValue("conditions of assessments can be asked of ASSESSMENTS only", "filters")
    return query


def _times(start: Micros | None, end: Micros | None) -> Filter:
    bounds = [f"timestamp >= {start // 1000}"] if start is not None else []
    bounds += [f"timestamp <= {end // 1000}"] if end is not None else []
    return parse_filter(" AND ".join(bounds), TRACES)


def _offset(token: str, scope: str) -> int:
    written = decode_page_token(token, scope)
    try:
        return int(written.get("o", 0)) if written else 0
    except ValueError:
        raise foreign_token() from None
