"""Use case of asking how much two conditions of traces go together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from services.tracking.domain.search.evaluate import matches, trace_values
from services.tracking.domain.search.paging import position_after
from services.tracking.domain.search.parser import parse_filter
from services.tracking.domain.search.syntax import TRACES, Filter
from services.tracking.domain.traces.correlation import CorrelationCounts
from services.tracking.domain.traces.search import split_filter
from services.tracking.domain.traces.trace import Trace
from services.tracking.handlers.access import Access
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore, TraceKey, TraceQuery
from tessera_kit.rpc.identity import Principal

__all__ = ["TraceCorrelation"]

_SLICE: Final = 500
# Ids of traces that one statement takes.
_MOST_CANDIDATES: Final = 5000


@dataclass(frozen=True, slots=True)
class _Asked:
    """Filters of the traces that are looked at, and of those that meet a condition beside."""

    base: Filter
    first: Filter
    second: Filter

    @property
    def all(self) -> tuple[Filter, Filter, Filter]:
        return self.base, self.base + self.first, self.base + self.second


class TraceCorrelation:
    """Counts traces that meet two conditions.

    Args:
        store: Where traces are kept.
        spans: Where their spans are kept.
        access: Who may see what.
    """

    def __init__(self, store: Store, spans: SpanStore, access: Access) -> None:
        self._store = store
        self._spans = spans
        self._access = access

    async def count(
        self,
        principal: Principal,
        experiment_ids: Collection[str],
        *,
        first: str,
        second: str,
        base: str = "",
    ) -> CorrelationCounts:
        """Return how many of the traces that the caller may read meet which condition.

        Args:
            principal: Who asks.
            experiment_ids: Whose traces; those that may not be read have none.
            first: A filter of traces.
            second: Another one.
            base: A filter that traces must meet to count at all; empty for none.

        Raises:
            InvalidFilter: A text does not parse.
        """
        asked = _Asked(*(parse_filter(text, TRACES) for text in (base, first, second)))
        readable = await self._access.readable(principal, experiment_ids)
        queries = [await self._stored(readable, one) for one in asked.all]
        if None not in queries:
            return await self._counted([one for one in queries if one is not None])
        return await self._walked(readable, asked)

    async def _stored(
        self, experiment_ids: Collection[str], conditions: Filter
    ) -> TraceQuery | None:
        """Return a filter as a query of the store of traces; None when that cannot answer it."""
        wanted = split_filter(conditions)
        if wanted.patterns:
            return None
        query = TraceQuery(experiment_ids=experiment_ids, filter=wanted.stored, limit=_SLICE)
        if not wanted.spans:
            return query
        those = await self._spans.candidates(experiment_ids, wanted.spans, limit=_MOST_CANDIDATES)
        return None if those is None else replace(query, trace_ids=those)

    async def _counted(self, queries: list[TraceQuery]) -> CorrelationCounts:
        base, first, second = queries
        named = [one.trace_ids for one in (first, second) if one.trace_ids is not None]
        both = replace(
            first,
            filter=first.filter + second.filter,
            trace_ids=set(named[0]).intersection(*named) if named else None,
        )
        async with self._store.read() as view:
            return CorrelationCounts(
                *[await view.traces.count(one) for one in (base, first, second, both)]
            )

    async def _walked(self, experiment_ids: Collection[str], asked: _Asked) -> CorrelationCounts:
        """Look at every trace, slice by slice, to bound memory."""
        query = TraceQuery(
            experiment_ids=experiment_ids, filter=split_filter(asked.base).stored, limit=_SLICE
        )
        total = first = second = both = 0
        while True:
            async with self._store.read() as view:
                found = await view.traces.find(query)
            counted, one, other = [await self._meeting(found, each) for each in asked.all]
            total, first, second = total + len(counted), first + len(one), second + len(other)
            both += len(one & other)
            if len(found) < _SLICE:
                return CorrelationCounts(total, first, second, both)
            last = found[-1]
            after = position_after(
                trace_values(last), (), time=last.requested_at, identifier=last.trace_id
            )
            query = replace(query, after=after)

    async def _meeting(self, found: list[Trace], conditions: Filter) -> set[str]:
        wanted = split_filter(conditions)
        told = wanted.stored + wanted.patterns
        those = [one for one in found if matches(trace_values(one), told)]
        if wanted.spans and those:
            keys = [TraceKey(one.experiment_id, one.trace_id) for one in those]
            return await self._spans.matching(keys, wanted.spans)
        return {one.trace_id for one in those}
