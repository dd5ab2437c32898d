"""The ports of traces and spans in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from services.tracking.adapters.memory.pages import Item, page_of
from services.tracking.domain.lifecycle import Micros
from services.tracking.domain.search.evaluate import matches, span_values, trace_values
from services.tracking.domain.search.syntax import Filter
from services.tracking.domain.traces.metrics import (
    DataPoint,
    Measure,
    MetricsQuery,
    Subject,
    aggregated,
    assessment_measures,
    span_measures,
    trace_measures,
)
from services.tracking.domain.traces.search import split_span_filter
from services.tracking.domain.traces.span import Span, otel_id_of, trace_id_of
from services.tracking.domain.traces.trace import Trace
from services.tracking.ports.traces import TraceKey, TraceQuery

__all__ = ["InMemorySpans", "InMemoryTraces"]


class InMemoryTraces:
    """The trace store over a dictionary of a transaction's state."""

    def __init__(self, traces: dict[str, Trace]) -> None:
        self._all = traces

    async def homes(self, trace_ids: Collection[str]) -> dict[str, str]:
        """Return the experiments of the traces that there are, by id."""
        return {one: self._all[one].experiment_id for one in trace_ids if one in self._all}

    async def get(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """Return the traces that there are, by id."""
        return {one: self._all[one] for one in trace_ids if one in self._all}

    async def lock(self, trace_ids: Collection[str]) -> dict[str, Trace]:
        """As `get`; one transaction runs at a time."""
        return await self.get(trace_ids)

    async def find(self, query: TraceQuery) -> list[Trace]:
        """Return traces in order."""
        items = [
            Item(trace_values(one), one.requested_at, one.trace_id, one)
            for one in self._all.values()
            if one.experiment_id in query.experiment_ids
            and (query.trace_ids is None or one.trace_id in query.trace_ids)
        ]
        return [item.thing for item in page_of(items, query)]

    async def count(self, query: TraceQuery) -> int:
        """Return how many traces match."""
        return len(await self.find(replace(query, order=(), after=None, limit=len(self._all))))

    async def measures(self, query: TraceQuery, asked: MetricsQuery) -> list[Measure]:
        """Return what traces, or what is said of them, add to figures."""
        found = await self.find(replace(query, order=(), after=None, limit=len(self._all)))
        measures = trace_measures if asked.subject is Subject.TRACES else assessment_measures
        return [measure for trace in found for measure in measures(asked, trace)]

    async def oldest(self, experiment_id: str, *, until: Micros, limit: int) -> list[str]:
        """Return the ids of an experiment's traces that began by a time, the oldest first."""
        those = sorted(
            (one.requested_at, one.trace_id)
            for one in self._all.values()
            if one.experiment_id == experiment_id and one.requested_at <= until
        )
        return [trace_id for _, trace_id in those[:limit]]

    async def put(self, traces: Sequence[Trace]) -> None:
        """Store the new state of traces."""
        for one in traces:
            said = sorted(one.assessments, key=lambda two: (two.created_at, two.assessment_id))
            self._all[one.trace_id] = replace(one, assessments=tuple(said))

    async def delete(self, trace_ids: Collection[str]) -> None:
        """Forget traces."""
        for trace_id in trace_ids:
            self._all.pop(trace_id, None)


class InMemorySpans:
    """The span store over a dictionary."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], dict[str, Span]] = {}

    async def add(self, spans: Mapping[str, Sequence[Span]]) -> None:
        """Store spans by their experiment."""
        for experiment_id, those in spans.items():
            for span in those:
                of_trace = self._all.setdefault((experiment_id, span.trace_id), {})
                of_trace[span.span_id] = span

    async def delete_all(self, experiment_id: str) -> None:
        """Forget all spans of an experiment."""
        for place in [place for place in self._all if place[0] == experiment_id]:
            del self._all[place]

    async def of(self, traces: Sequence[TraceKey]) -> dict[str, list[Span]]:
        """Return the spans of traces by trace id, the earliest first."""
        return {
            key.trace_id: sorted(found.values(), key=lambda one: (one.started_at, one.span_id))
            for key in traces
            if (found := self._all.get(_place(key)))
        }

    async def matching(self, traces: Sequence[TraceKey], conditions: Filter) -> set[str]:
        """Return the ids of those traces that have what conditions of spans ask for."""
        return {
            trace_id
            for trace_id, spans in (await self.of(traces)).items()
            if all(
                any(matches(span_values(span), together) for span in spans)
                for together in split_span_filter(conditions)
            )
        }

    async def candidates(
        self, experiment_ids: Collection[str], conditions: Filter, *, limit: int
    ) -> set[str] | None:
        """Return the ids of all traces that match; None when there are more than `limit`."""
        keys = [
            TraceKey(experiment_id, trace_id_of(otel_id))
            for experiment_id, otel_id in self._all
            if experiment_id in experiment_ids
        ]
        found = await self.matching(keys, conditions)
        return None if len(found) > limit else found

    async def aggregate(
        self,
        experiment_ids: Collection[str],
        query: MetricsQuery,
        traces: Sequence[TraceKey] | None,
    ) -> list[DataPoint]:
        """Return figures of spans, by time and dimensions."""
        places = None if traces is None else {_place(key) for key in traces}
        end = math.inf if query.end is None else (query.end // 1000 + 1) * 1000
        measures = [
            measure
            for place, spans in self._all.items()
            if place[0] in experiment_ids and (places is None or place in places)
            for span in spans.values()
            if matches(span_values(span), query.spans)
            and (query.start or 0) <= span.started_at // 1000 < end
            for measure in span_measures(query, span)
        ]
        return aggregated(query, measures)

    async def delete(self, traces: Sequence[TraceKey]) -> None:
        """Forget the spans of traces."""
        for key in traces:
            self._all.pop(_place(key), None)


def _place(key: TraceKey) -> tuple[str, str]:
    return key.experiment_id, otel_id_of(key.trace_id)
