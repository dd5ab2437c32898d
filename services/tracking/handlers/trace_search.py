"""Use case of searching traces: two stores answer one filter, page by page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.tracking.domain.search.evaluate import matches, trace_values
from services.tracking.domain.search.paging import Position, position_after
from services.tracking.domain.search.parser import parse_filter, parse_order_by
from services.tracking.domain.search.syntax import TRACES, OrderKey
from services.tracking.domain.traces.search import TraceFilter, split_filter
from services.tracking.domain.traces.trace import Trace
from services.tracking.handlers.access import Access
from services.tracking.handlers.page_tokens import position_at, scope_of, token_of
from services.tracking.ports.store import Store
from services.tracking.ports.traces import SpanStore, TraceKey, TraceQuery
from tessera_kit.rpc.identity import Principal

__all__ = ["TracePage", "TraceSearch"]

# Asked of the span store first; more candidates than these are looked at slice by slice instead.
_MOST_CANDIDATES: Final = 5000
_SLICE: Final = 200
_LARGEST_SLICE: Final = 500
_PAGE_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class TracePage:
    """A page of traces."""

    traces: list[Trace]
    next_token: str
    """Where the next page starts; empty on the last page."""


class TraceSearch:
    """Searches traces.

    Args:
        store: Where they are kept.
        spans: Where their spans are kept.
        access: Who may see what.
    """

    def __init__(self, store: Store, spans: SpanStore, access: Access) -> None:
        self._store = store
        self._spans = spans
        self._access = access

    async def traces(
        self,
        principal: Principal,
        *,
        experiment_ids: Collection[str],
        text: str,
        order_by: Sequence[str],
        size: int,
        token: str,
    ) -> TracePage:
        """Return a page of the traces that match; experiments that may not be read have none.

        A page ends early where its traces hold more than 8 MiB of text.

        Raises:
            InvalidFilter, InvalidOrderBy: A text does not parse.
            InvalidPageToken: The token was not made by this search.
        """
        order = parse_order_by(order_by, TRACES)
        wanted = split_filter(parse_filter(text, TRACES))
        scope = scope_of("traces", sorted(experiment_ids), text, list(order_by))
        readable = await self._access.readable(principal, experiment_ids)

        async def place_of(trace_id: str) -> Position | None:
            async with self._store.read() as view:
                trace = (await view.traces.get([trace_id])).get(trace_id)
            if trace is None or trace.experiment_id not in readable:
                return None
            return _place(trace, order)

        query = TraceQuery(
            experiment_ids=readable,
            filter=wanted.stored,
            order=order,
            limit=size + 1,
            after=await position_at(token, scope, order, place_of),
        )
        page, more = await self._page(query, wanted, size)
        return TracePage(page, token_of(_place(page[-1], order), scope) if more else "")

    async def _page(
        self, query: TraceQuery, wanted: TraceFilter, size: int
    ) -> tuple[list[Trace], bool]:
        """Return up to `size` traces and whether more follow; read in slices, to bound memory."""
        if wanted.spans:
            candidates = await self._spans.candidates(
                query.experiment_ids, wanted.spans, limit=_MOST_CANDIDATES
            )
            if candidates is not None:
                query = replace(query, trace_ids=candidates)
                wanted = replace(wanted, spans=())
        page: list[Trace] = []
        weight = 0
        limit = min(_SLICE, size + 1)
        while True:
            async with self._store.read() as view:
                found = await view.traces.find(replace(query, limit=limit))
            for trace in await self._matching(found, wanted):
                weight += _weight(trace)
                if len(page) == size or (page and weight > _PAGE_BYTES):
                    return page, True
                page.append(trace)
            if len(found) < limit:
                return page, False
            query = replace(query, after=_place(found[-1], query.order))
            # Few of many match: larger slices need fewer trips.
            limit = min(2 * limit, _LARGEST_SLICE)

    async def _matching(self, found: list[Trace], wanted: TraceFilter) -> list[Trace]:
        found = [one for one in found if matches(trace_values(one), wanted.patterns)]
        if not wanted.spans or not found:
            return found
        keys = [TraceKey(one.experiment_id, one.trace_id) for one in found]
        those = await self._spans.matching(keys, wanted.spans)
        return [one for one in found if one.trace_id in those]


def _place(trace: Trace, order: Sequence[OrderKey]) -> Position:
    return position_after(
        trace_values(trace), order, time=trace.requested_at, identifier=trace.trace_id
    )


def _weight(trace: Trace) -> int:
    pairs = (*trace.tags.items(), *trace.metadata.items())
    previews = len(trace.request_preview or "") + len(trace.response_preview or "")
    said = sum(200 + len(one.rationale or "") for one in trace.assessments)
    return previews + said + sum(len(key) + len(value) for key, value in pairs)
